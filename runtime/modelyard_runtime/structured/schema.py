"""JSON schemas from clients: bounded, checked keyword by keyword, and brought into the form that grammars are made from."""

from __future__ import annotations

import re
from typing import Any

import orjson

from modelyard_runtime.structured.conditions import written_out
from modelyard_runtime.structured.keywords import ANNOTATIONS, EXACT_FORMATS, INSTEAD, SCHEMA, SCHEMA_LIST, SCHEMA_MAP, VALUES
from modelyard_runtime.structured.walk import Schema, SchemaRefused, Walk, resolved

__all__ = ["SchemaRefused", "normalised"]

MAX_BYTES = 256 << 10
#: Schemas inside of schemas; a value of `enum` or `const` counts its own levels too.
MAX_DEPTH = 32
#: Schemas in all, and values in all lists of `enum`.
MAX_SCHEMAS = 5_000
MAX_ENUM = 5_000
MAX_REFERENCES = 1_000
#: What a grammar cannot say in a string without escapes that would let other names in by a back door.
_CONTROL = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")


def normalised(schema: Any, *, lenient: bool = False) -> dict[str, Any]:
    """Returns a schema with nothing but what a grammar enforces, in the order of its keys: properties come in that order.

    ``lenient`` leaves out keywords that cannot be enforced instead of refusing them. Raises SchemaRefused.
    """
    if not isinstance(schema, dict):
        raise SchemaRefused("", "expected a JSON schema, which is an object")
    if len(orjson.dumps(schema)) > MAX_BYTES:
        raise SchemaRefused("", f"the schema is larger than {MAX_BYTES >> 10} KiB; send a smaller one")
    walk = Walk(schema, lenient)
    checked = _object(walk, schema, "", 0)
    if "type" not in checked and not {"anyOf", "oneOf", "allOf", "$ref", "enum", "const"} & set(checked) and "properties" in checked:
        checked = {"type": "object", **checked}
    walk.root = checked
    walk.checked.add(id(checked))
    result = written_out(walk, checked, "")
    assert isinstance(result, dict), "an object stays one"
    definitions: dict[str, Schema] = {}
    while pending := [name for name in walk.shared if name not in definitions]:  # what is shared may share more
        definitions |= {name: written_out(walk, walk.shared[name], "") for name in pending}
    return {**result, "$defs": {**result.get("$defs", {}), **definitions}} if definitions else result


def _schema(walk: Walk, schema: Any, path: str, depth: int) -> Schema:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise SchemaRefused(path, "expected a JSON schema: an object, true or false")
    return _object(walk, schema, path, depth)


def _object(walk: Walk, schema: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
    walk.schemas += 1
    if depth > MAX_DEPTH:
        raise SchemaRefused(path, f"schemas are nested more than {MAX_DEPTH} deep; use $ref, or a flatter schema")
    if walk.schemas > MAX_SCHEMAS:
        raise SchemaRefused("", f"the schema has more than {MAX_SCHEMAS} schemas in it; send a smaller one")
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword not in ANNOTATIONS and not keyword.startswith("x-"):
            result |= _keyword(walk, keyword, value, f"{path}.{keyword}", depth)
    checked = _exact_format(result)
    walk.checked.add(id(checked))
    return checked


def _keyword(walk: Walk, keyword: str, value: Any, path: str, depth: int) -> dict[str, Any]:
    """Returns the keyword and its value, or nothing where a lenient walk leaves it out."""
    if keyword in SCHEMA:
        return {keyword: _schema(walk, value, path, depth + 1)}
    if keyword in SCHEMA_LIST:
        if not isinstance(value, list) or not value:
            raise SchemaRefused(path, "expected a list of at least one schema")
        return {keyword: [_schema(walk, item, f"{path}[{index}]", depth + 1) for index, item in enumerate(value)]}
    if keyword in SCHEMA_MAP:
        if not isinstance(value, dict):
            raise SchemaRefused(path, "expected an object of schemas")
        return {keyword: {name: _schema(walk, item, f"{path}.{name}", depth + 1) for name, item in value.items()}}
    if keyword in VALUES:
        return _value(walk, keyword, value, path, depth)
    if walk.lenient:
        return {}
    raise SchemaRefused(
        path, f"the keyword '{keyword[:100]}' is not supported in schemas that bound an answer; {INSTEAD.get(keyword, 'remove it')}"
    )


def _value(walk: Walk, keyword: str, value: Any, path: str, depth: int) -> dict[str, Any]:
    right, words = VALUES[keyword]
    if not right(value):
        if walk.lenient and keyword == "format":
            return {}
        raise SchemaRefused(path, f"expected {words}")
    if keyword in {"enum", "const"}:
        _check_constant(value, path, depth)
    if keyword == "enum":
        walk.enum += len(value)
        if walk.enum > MAX_ENUM:
            raise SchemaRefused(path, f"the schema has more than {MAX_ENUM} values in its enums; send fewer")
    if keyword == "$ref":
        walk.references += 1
        if walk.references > MAX_REFERENCES:
            raise SchemaRefused(path, f"the schema has more than {MAX_REFERENCES} references; send fewer")
        if resolved(walk.root, value) is None:
            raise SchemaRefused(path, f"'{value[:100]}' points to nothing in the schema")
    return {keyword: value}


def _check_constant(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SchemaRefused(path, f"values are nested more than {MAX_DEPTH} deep; send flatter ones")
    if isinstance(value, str) and _CONTROL.search(value):
        raise SchemaRefused(path, "a value has control characters, which answers have only as \\b, \\t, \\n, \\f and \\r; leave them out")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_constant(item, path, depth + 1)


def _exact_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Turns a format into a pattern where that is more exact."""
    exact = EXACT_FORMATS.get(schema.get("format", ""))
    if exact is None:
        return schema
    rest = {key: value for key, value in schema.items() if key != "format"}
    if "pattern" not in rest:
        return {**rest, "pattern": exact}
    return {**rest, "allOf": [*rest.get("allOf", ()), {"type": "string", "pattern": exact}]}
