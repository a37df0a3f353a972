"""Inputs that may be a string, a list of strings, token ids or a list of token ids."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

from modelyard_runtime.api.fields import invalid

MAX_INPUTS = 2048
_FORMS = "expected a string, an array of strings, or token ids"


def normalize(value: Any) -> list[str | list[int]]:
    """Returns a list of texts and token-id lists; raises on anything else, empty or too long."""
    inputs = _as_inputs(value)
    if len(inputs) > MAX_INPUTS:
        raise invalid(f"must have at most {MAX_INPUTS} element(s)")
    for index, item in enumerate(inputs):
        if not item:
            raise invalid(f"element {index} is empty; send at least one character or token")
        if isinstance(item, list) and not _are_tokens(item):
            raise invalid(f"element {index} has values that are no token ids; {_FORMS}")
    return inputs


def _as_inputs(value: Any) -> list[str | list[int]]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list):
        raise invalid(_FORMS)
    if not value:
        raise invalid("is empty; send at least one text")
    if _are_tokens(value):
        return [value]
    if all(isinstance(item, str) for item in value) or all(isinstance(item, list) for item in value):
        return value
    raise invalid(_FORMS)


def _are_tokens(values: list[Any]) -> bool:
    """Whether all are token ids; there may be millions."""
    return set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 2**31


Inputs = Annotated[
    list[Any],
    BeforeValidator(normalize),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_INPUTS},
                {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1},
                {"type": "array", "items": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}, "minItems": 1},
            ]
        }
    ),
]
