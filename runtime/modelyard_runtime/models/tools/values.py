"""Arguments that models write one by one, as text: what they are by a tool's schema, and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modelyard_runtime.structured.keywords import ANNOTATIONS, TYPES
from modelyard_runtime.structured.negation import types_of
from modelyard_runtime.structured.walk import resolved

#: Keywords of strings that a grammar keeps without their quotes.
_OF_TEXT = frozenset({"type", "enum", "const", "minLength", "maxLength"})
#: How models write truth and nothing that know more of Python than of JSON.
_OF_PYTHON = {"True": "true", "False": "false", "None": "null"}
_MOST_DEPTH = 32

Schemas = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a tool: the types it may have; ``plain`` when it is a string that is written without quotes."""

    kinds: frozenset[str]
    plain: bool

    def as_json(self, text: str) -> str:
        """Returns what a model wrote as JSON: of a type that the schema has, else a string."""
        written = text.strip()
        written = _OF_PYTHON.get(written, written)
        value = None if self.plain else _loaded(written)
        return written if value is not None and types_of(value[0]) & self.kinds else json.dumps(text, ensure_ascii=False)


def parameter(schema: Mapping[str, Any], name: str) -> Parameter:
    """Returns a tool's parameter by the schema of its arguments; of one that it does not list, anything may be."""
    properties = followed(schema, schema).get("properties")
    found = properties.get(name, {}) if isinstance(properties, dict) else {}
    kinds = _kinds(schema, found, set())
    found = followed(schema, found)
    return Parameter(kinds, kinds == {"string"} and all(key in _OF_TEXT or key in ANNOTATIONS for key in found))


def followed(root: Mapping[str, Any], schema: Any) -> dict[str, Any]:
    """Returns a schema, or what it refers to; an empty one where that is none."""
    for _ in range(_MOST_DEPTH):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolved(dict(root), schema["$ref"])
    return schema if isinstance(schema, dict) else {}


def _kinds(root: Mapping[str, Any], schema: Any, seen: set[str]) -> frozenset[str]:
    """Returns the types that a schema of any form may have; what ``seen`` refers to was counted before."""
    if isinstance(schema, dict) and isinstance(schema.get("$ref"), str):
        if schema["$ref"] in seen:
            return frozenset()
        seen.add(schema["$ref"])
        return _kinds(root, resolved(dict(root), schema["$ref"]), seen)
    if not isinstance(schema, dict):
        return TYPES
    if "type" in schema:
        names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
        return frozenset(name for name in names if isinstance(name, str))
    if "const" in schema or isinstance(schema.get("enum"), list):
        return frozenset[str]().union(*map(types_of, [schema["const"]] if "const" in schema else schema["enum"]))
    parts = [one for keyword in ("anyOf", "oneOf") if isinstance(schema.get(keyword), list) for one in schema[keyword]]
    return frozenset[str]().union(*(_kinds(root, one, seen) for one in parts)) if parts else TYPES


def _loaded(text: str) -> tuple[Any] | None:
    """Returns the value of JSON, None where a text is none."""
    try:
        return (json.loads(text, parse_constant=_refuse),)
    except (ValueError, RecursionError):
        return None


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
