"""JSON schemas from clients: bounded, checked keyword by keyword, and brought into the form that grammars are made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from modelyard_runtime.structured.keywords import ANNOTATIONS, EXACT_FORMATS, SCHEMA, SCHEMA_LIST, SCHEMA_MAP, VALUES

MAX_BYTES = 256 << 10
#: Schemas inside of schemas; a value of `enum` or `const` counts its own levels too.
MAX_DEPTH = 32
#: Schemas in all, and values in all lists of `enum`.
MAX_SCHEMAS = 5_000
MAX_ENUM = 5_000
MAX_REFERENCES = 1_000
_MAX_REFERENCE_CHAIN = 32

Schema = dict[str, Any] | bool


class SchemaRefused(ValueError):
    """A schema that no grammar is made of. ``path`` is where: ``.properties.age.minimum``, empty for all of it."""

    def __init__(self, path: str, message: str):
        super().__init__(message)
        self.path = path


@dataclass(slots=True)
class _Walk:
    """What one schema has used of its bounds. A lenient walk leaves out what it cannot enforce."""

    root: dict[str, Any]
    lenient: bool
    schemas: int = 0
    enum: int = 0
    references: int = 0


def normalised(schema: Any, *, lenient: bool = False) -> dict[str, Any]:
    """Returns a schema with nothing but what a grammar enforces, in the order of its keys: properties come in that order.

    ``lenient`` leaves out keywords that cannot be enforced instead of refusing them. Raises SchemaRefused.
    """
    if not isinstance(schema, dict):
        raise SchemaRefused("", "expected a JSON schema, which is an object")
    if len(orjson.dumps(schema)) > MAX_BYTES:
        raise SchemaRefused("", f"the schema is larger than {MAX_BYTES >> 10} KiB; send a smaller one")
    result = _object(_Walk(schema, lenient), schema, "", 0)
    if "type" not in result and not {"anyOf", "oneOf", "allOf", "$ref", "enum", "const"} & set(result) and "properties" in result:
        result = {"type": "object", **result}
    return result


def _schema(walk: _Walk, schema: Any, path: str, depth: int) -> Schema:
    if isinstance(schema, bool):
        return schema
    if not isinstance(schema, dict):
        raise SchemaRefused(path, "expected a JSON schema: an object, true or false")
    return _object(walk, schema, path, depth)


def _object(walk: _Walk, schema: dict[str, Any], path: str, depth: int) -> dict[str, Any]:
    walk.schemas += 1
    if depth > MAX_DEPTH:
        raise SchemaRefused(path, f"schemas are nested more than {MAX_DEPTH} deep; use $ref, or a flatter schema")
    if walk.schemas > MAX_SCHEMAS:
        raise SchemaRefused("", f"the schema has more than {MAX_SCHEMAS} schemas in it; send a smaller one")
    result: dict[str, Any] = {}
    for keyword, value in schema.items():
        if keyword not in ANNOTATIONS and not keyword.startswith("x-"):
            result |= _keyword(walk, keyword, value, f"{path}.{keyword}", depth)
    return _one_of(walk, _min_properties(walk, _exact_format(result), path))


def _keyword(walk: _Walk, keyword: str, value: Any, path: str, depth: int) -> dict[str, Any]:
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
    raise SchemaRefused(path, f"the keyword '{keyword[:100]}' is not supported in schemas that bound an answer; remove it")


def _value(walk: _Walk, keyword: str, value: Any, path: str, depth: int) -> dict[str, Any]:
    right, words = VALUES[keyword]
    if not right(value):
        if walk.lenient and keyword == "format":
            return {}
        raise SchemaRefused(path, f"expected {words}")
    if keyword in {"enum", "const"}:
        _check_depth(value, path, depth)
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


def _check_depth(value: Any, path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise SchemaRefused(path, f"values are nested more than {MAX_DEPTH} deep; send flatter ones")
    if isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            _check_depth(item, path, depth + 1)


def resolved(root: dict[str, Any], reference: str) -> Any:
    """Returns what ``#/a/b`` points to, or None. https://www.rfc-editor.org/rfc/rfc6901."""
    node: Any = root
    for part in reference.split("/")[1:]:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(node, dict):
            node = node.get(key)
        elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
            node = node[int(key)]
        else:
            return None
    return node


def _exact_format(schema: dict[str, Any]) -> dict[str, Any]:
    """Turns a format into a pattern where that is more exact."""
    exact = EXACT_FORMATS.get(schema.get("format", ""))
    if exact is None:
        return schema
    rest = {key: value for key, value in schema.items() if key != "format"}
    if "pattern" not in rest:
        return {**rest, "pattern": exact}
    return {**rest, "allOf": [*rest.get("allOf", ()), {"type": "string", "pattern": exact}]}


def _min_properties(walk: _Walk, schema: dict[str, Any], path: str) -> dict[str, Any]:
    """Takes out a minimum that `required` implies. A higher one cannot be kept: names of further properties may come twice."""
    least = schema.get("minProperties")
    if least is None:
        return schema
    if least > max(len(schema.get("required", ())), 1) and not walk.lenient:
        raise SchemaRefused(
            f"{path}.minProperties", "a minimum above 1 and above the number of required properties is not supported; remove it"
        )
    keep = least == 1 and not schema.get("required")
    return schema if keep else {key: value for key, value in schema.items() if key != "minProperties"}


def _one_of(walk: _Walk, schema: dict[str, Any]) -> dict[str, Any]:
    """Turns `oneOf` into `anyOf` where a property tells the alternatives apart, so that never two of them fit."""
    alternatives = schema.get("oneOf")
    if alternatives is None or "anyOf" in schema or not (walk.lenient or _told_apart(walk.root, alternatives)):
        return schema
    return {"anyOf" if key == "oneOf" else key: value for key, value in schema.items()}


def _told_apart(root: dict[str, Any], alternatives: list[Schema]) -> bool:
    tags = [_tags(_follow(root, alternative)) for alternative in alternatives]
    shared = set(tags[0]).intersection(*tags[1:])
    return any(_disjoint([tag[name] for tag in tags]) for name in shared)


def _follow(root: dict[str, Any], schema: Any) -> Any:
    for _ in range(_MAX_REFERENCE_CHAIN):
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            break
        schema = resolved(root, schema["$ref"])
    return schema


def _tags(schema: Any) -> dict[str, list[Any]]:
    """Returns the values of each required property of an object that has a few fixed ones."""
    if not isinstance(schema, dict) or schema.get("type") != "object" or not isinstance(schema.get("required"), list):
        return {}
    tags: dict[str, list[Any]] = {}
    properties = schema.get("properties")
    for name, value in properties.items() if isinstance(properties, dict) else ():
        if isinstance(value, dict) and name in schema["required"]:
            if "const" in value:
                tags[name] = [value["const"]]
            elif isinstance(value.get("enum"), list):
                tags[name] = value["enum"]
    return tags


def _disjoint(sets: list[list[Any]]) -> bool:
    """Whether no value is in two of the lists; only strings are compared, since 1, 1.0 and true are not that simple."""
    values = [value for each in sets for value in set(map(orjson.dumps, each))]
    return all(isinstance(value, str) for each in sets for value in each) and len(set(values)) == len(values)
