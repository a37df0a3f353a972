"""Tools, their calls in messages, and forms of answers, as requests have them."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import orjson
from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from modelyard_runtime.api.fields import Body, Ignored, invalid

_MAX_TOOLS = 128
_MAX_CALLS = 128
_MAX_SCHEMA_BYTES = 256 << 10
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise invalid("expected 1 to 64 letters, digits, '_', '-' or '.'")
    return value


def _parameters(value: dict[str, Any]) -> dict[str, Any]:
    """Refuses what templates and grammars should not even look at."""
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError:  # nested more than 254 deep
        raise invalid("is nested too deep; send a flatter schema") from None
    if size > _MAX_SCHEMA_BYTES:
        raise invalid(f"is larger than {_MAX_SCHEMA_BYTES >> 10} KiB; send a smaller schema")
    return value


FunctionName = Annotated[str, AfterValidator(_name)]
SchemaObject = Annotated[dict[str, Any], AfterValidator(_parameters)]


class Function(Body):
    """A function that the model may call; ``parameters`` is a JSON schema of an object, left out for a function without any."""

    name: FunctionName
    description: Annotated[str, Field(max_length=65_536)] | None = None
    parameters: SchemaObject | None = None
    strict: bool | None = None


class Tool(Body):
    """A tool, which is a function."""

    type: Literal["function"]
    function: Function

    @model_validator(mode="before")
    @classmethod
    def _no_other(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(kind := value.get("type"), str) and kind != "function":
            raise invalid(f"tools of type {kind[:64]!r} are not supported; send functions")
        return value

    def rendered(self) -> dict[str, Any]:
        """Returns what a chat template takes."""
        function = {"name": self.function.name, "description": self.function.description or "", "parameters": self.schema_of_arguments}
        return {"type": "function", "function": function}

    @property
    def schema_of_arguments(self) -> dict[str, Any]:
        """The schema of the arguments, an object's."""
        return {"type": "object", "properties": {}} if self.function.parameters is None else self.function.parameters


class CalledFunction(Body):
    """The function of a call: ``arguments`` are JSON as the model wrote it."""

    name: FunctionName
    arguments: str


class ToolCall(Body):
    """A call that the model made."""

    id: Annotated[str, Field(min_length=1, max_length=256)]
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Ignored = None


def replaced_by(name: str) -> AfterValidator:
    """Marks a field of OpenAI's past: refused, naming what came after it."""

    def check(value: Any) -> Any:
        if value is None or value in ([], "none", "auto"):
            return value
        text = f"not supported: it was replaced by '{name}'; send that"
        raise PydanticCustomError("unsupported", "{text}", {"text": text, "code": "unsupported_parameter"})

    return AfterValidator(check)


_CHOICES = ("none", "auto", "required")
_CHOICE_FORM = 'expected none, auto, required or {"type": "function", "function": {"name": "…"}}'


def _choice(value: Any) -> Any:
    """Returns one of the words, or the name of a function as ``=name``."""
    if value is None or value in _CHOICES:
        return value
    function = value.get("function") if isinstance(value, dict) and value.get("type") == "function" and len(value) == 2 else None
    if not isinstance(function, dict) or set(function) != {"name"} or not isinstance(function["name"], str):
        raise invalid(_CHOICE_FORM)
    return "=" + function["name"]


Tools = Annotated[list[Tool], Field(max_length=_MAX_TOOLS)]
ToolCalls = Annotated[list[ToolCall], Field(max_length=_MAX_CALLS)]
ToolChoice = Annotated[
    str,
    BeforeValidator(_choice),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": list(_CHOICES)},
                {
                    "type": "object",
                    "required": ["type", "function"],
                    "properties": {
                        "type": {"const": "function"},
                        "function": {
                            "type": "object",
                            "required": ["name"],
                            "properties": {"name": {"type": "string"}},
                            "additionalProperties": False,
                        },
                    },
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class JsonSchemaFormat(Body):
    """A schema that the answer keeps. It is kept whether ``strict`` is set or not."""

    name: FunctionName
    schema_: Annotated[SchemaObject, Field(alias="schema")]
    description: Ignored = None
    strict: bool | None = None


class ResponseFormat(Body):
    """The form of an answer."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None
