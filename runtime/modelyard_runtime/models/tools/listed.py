"""Grammars of arguments that are written one by one, each bound by its own part of the tool's schema."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelyard_runtime.models.tools.values import parameter
from modelyard_runtime.structured.grammar import json_rule
from modelyard_runtime.structured.keywords import ANNOTATIONS
from modelyard_runtime.structured.walk import resolved

_ROOT = "root"
_MOST_DEPTH = 32
#: Keywords that arguments written one by one keep at the top of their schema.
_KEPT = ANNOTATIONS | {"type", "properties", "required", "additionalProperties", "$defs", "definitions"}


class NotListed(ValueError):
    """A schema of arguments that cannot be kept by keeping each argument to its own part of it."""


@dataclass(frozen=True, slots=True)
class Argument:
    """An argument: the normalised schema of its value, whole by itself; ``plain`` when it is a string without quotes."""

    name: str
    schema: dict[str, Any]
    required: bool
    plain: bool

    @property
    def value(self) -> str:
        """The expression of its value as JSON."""
        return json_rule(self.schema)


def arguments_of(schema: dict[str, Any]) -> list[Argument]:
    """Returns the arguments of a normalised schema, in order. Raises NotListed."""
    top = schema
    for _ in range(_MOST_DEPTH):
        if set(top) - {"$defs", "definitions"} != {"$ref"}:
            break
        top = resolved(schema, top["$ref"])
    if not isinstance(top, dict) or set(top) - _KEPT:
        raise NotListed(
            "this model writes the arguments of a call one by one, so that only an object's 'properties' and 'required' can be kept: "
            f"leave {', '.join(sorted(set(top) - _KEPT)) or 'other things'} out of the top of the schema"
        )
    properties = {name: one for name, one in top.get("properties", {}).items() if one is not False}
    whole = top | _defs(schema)
    required = top.get("required", ())
    return [
        Argument(name, _alone(schema, properties.get(name, {})), name in required, parameter(whole, name).plain)
        for name in dict.fromkeys([*properties, *required])
    ]


def _defs(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _alone(root: dict[str, Any], part: Any) -> dict[str, Any]:
    """Returns a part of a schema that is whole by itself: what it refers to goes with it."""
    if part is True:
        return {}
    moved = _moved(part)
    if moved == part:
        return dict(part)
    return {**{key: value for key, value in moved.items() if key != "$defs"}, "$defs": {_ROOT: _moved(root)}}


def _moved(node: Any) -> Any:
    """Returns a schema whose references point into a definition of the whole."""
    if isinstance(node, list):
        return [_moved(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {key: _reference(key, value) if isinstance(value, str) else _constant(key, value) for key, value in node.items()}


def _reference(key: str, value: str) -> str:
    return f"#/$defs/{_ROOT}{value[1:]}" if key == "$ref" else value


def _constant(key: str, value: Any) -> Any:
    return value if key in {"const", "enum"} else _moved(value)


def spread(arguments: Sequence[tuple[str, bool]]) -> str:
    """Returns the expression of arguments, each an expression and whether it is required, one after the other."""
    return " ".join(text if required else f"({text})?" for text, required in arguments) or '""'


def separated(arguments: Sequence[tuple[str, bool]], name: str) -> list[str]:
    """Returns rules of arguments with commas between them, the first of which is ``name``."""
    rules = [f'{name}_first_{len(arguments)}: ""', f'{name}_more_{len(arguments)}: ""']
    for at, (text, required) in enumerate(arguments):
        first, more = f"{text} {name}_more_{at + 1}", f'", " {text}'
        rules.append(f"{name}_first_{at}: {first}" + ("" if required else f" | {name}_first_{at + 1}"))
        rules.append(f"{name}_more_{at}: {more if required else f'({more})?'} {name}_more_{at + 1}")
    return [*rules, f"{name}: {name}_first_0"]
