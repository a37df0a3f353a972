"""What the API server does with a structural schema: unknown fields, defaults, checks, in its own words.

The words are those of Kubernetes' validators (k8s.io/kube-openapi, k8s.io/apimachinery `field.Error`), so that a manifest is refused
here as `kubectl apply` refuses it; `e2e/test_api_server.py` compares the two.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from modelyard.api.markers import JsonSchema


class Problem(NamedTuple):
    """What is wrong with a field. ``blocking`` problems make the rules unanswerable, so they are not asked."""

    field: str
    message: str
    blocking: bool = False

    def __str__(self) -> str:
        return f"{self.field}: {self.message}"


def unknown(value: Any, schema: JsonSchema, path: str = "") -> Iterator[str]:
    """Yields the paths of fields that the schema does not have."""
    if isinstance(value, dict):
        for key in sorted(value):
            inner = _property(schema, key)
            here = f"{path}.{key}" if path else str(key)
            if inner is None and "properties" in schema:
                yield here
            elif inner is not None:
                yield from unknown(value[key], inner, here)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from unknown(item, schema.get("items", {}), f"{path}[{index}]")


def siblings(path: str, schema: JsonSchema) -> list[str]:
    """Returns the fields that the schema has behind a path that ends in a dot, ``spec.engine.env[0].``; its own where that is empty."""
    for part in path.split(".")[:-1]:
        name, listed, _ = part.partition("[")
        schema = _property(schema, name) or {}
        schema = schema.get("items", {}) if listed else schema
    return list(schema.get("properties", {}))


def defaulted(value: Any, schema: JsonSchema) -> Any:
    """Returns the value with defaults filled in. A null is a field left out; a whole float is an integer, as in kubectl's JSON."""
    if isinstance(value, dict):
        given = {key: item for key, item in value.items() if item is not None or _property(schema, key) is None}
        absent = {key: inner["default"] for key, inner in schema.get("properties", {}).items() if "default" in inner and key not in given}
        return {key: defaulted(item, _property(schema, key) or {}) for key, item in (given | absent).items()}
    if isinstance(value, list):
        return [defaulted(item, schema.get("items", {})) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check(value: Any, schema: JsonSchema, path: str) -> Iterator[Problem]:
    """Yields the problems of a value that has its defaults."""
    wanted = "integer,string" if schema.get("x-kubernetes-int-or-string") else schema.get("type", "")
    kind = kind_of(value)
    if kind not in wanted.split(",") and not (kind == "integer" and wanted == "number"):
        yield Problem(path, f'Invalid value: "{kind}": {path} in body must be of type {wanted}: "{kind}"', blocking=True)
        return
    if "enum" in schema and value not in schema["enum"]:
        supported = ", ".join(json.dumps(one) for one in schema["enum"])
        yield Problem(path, f"Unsupported value: {json.dumps(value)}: supported values: {supported}", blocking=True)
    if isinstance(value, str):
        yield from _text(value, schema, path)
    elif isinstance(value, dict):
        yield from _object(value, schema, path)
    elif isinstance(value, list):
        yield from _array(value, schema, path)
    elif not isinstance(value, bool):
        yield from _number(value, schema, path)


def kind_of(value: Any) -> str:
    """Returns the JSON type of a value. Integers beyond 64 bits are numbers, as they are in Go."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else "boolean"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "number"
    return {str: "string", float: "number", list: "array", dict: "object"}.get(type(value), type(value).__name__)


def _property(schema: JsonSchema, key: str) -> JsonSchema | None:
    inner: JsonSchema | None = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
    return inner


def _text(value: str, schema: JsonSchema, path: str) -> Iterator[Problem]:
    if len(value) < schema.get("minLength", 0):
        yield Problem(path, f"Invalid value: {json.dumps(value)}: {path} in body should be at least {schema['minLength']} chars long")
    if len(value) > schema.get("maxLength", len(value)):
        yield Problem(path, f"Too long: may not be more than {schema['maxLength']} bytes", blocking=True)
    if "pattern" in schema and not re.search(schema["pattern"], value):
        yield Problem(path, f"Invalid value: {json.dumps(value)}: {path} in body should match '{schema['pattern']}'")


def _number(value: float, schema: JsonSchema, path: str) -> Iterator[Problem]:
    least, most = schema.get("minimum"), schema.get("maximum")
    low = least is not None and (value <= least if schema.get("exclusiveMinimum") else value < least)
    high = most is not None and (value >= most if schema.get("exclusiveMaximum") else value > most)
    if low:
        words = "greater than" if schema.get("exclusiveMinimum") else "greater than or equal to"
        yield Problem(path, f"Invalid value: {value}: {path} in body should be {words} {least:g}")
    if high:
        words = "less than" if schema.get("exclusiveMaximum") else "less than or equal to"
        yield Problem(path, f"Invalid value: {value}: {path} in body should be {words} {most}")


def _object(value: JsonSchema, schema: JsonSchema, path: str) -> Iterator[Problem]:
    if len(value) > schema.get("maxProperties", len(value)):
        yield Problem(path, f"Too many: {len(value)}: must have at most {schema['maxProperties']} items", blocking=True)
    for key in schema.get("required", ()):
        if key not in value:
            yield Problem(f"{path}.{key}", "Required value", blocking=True)
    for key, item in value.items():
        inner = _property(schema, key)
        if inner is not None:
            yield from check(item, inner, f"{path}.{key}")


def _array(value: list[Any], schema: JsonSchema, path: str) -> Iterator[Problem]:
    if len(value) > schema.get("maxItems", len(value)):
        yield Problem(path, f"Too many: {len(value)}: must have at most {schema['maxItems']} items", blocking=True)
    if len(value) < schema.get("minItems", 0):
        yield Problem(path, f"Invalid value: {len(value)}: {path} in body should have at least {schema['minItems']} items")
    for index, item in enumerate(value):
        yield from check(item, schema["items"], f"{path}[{index}]")
    keys = schema.get("x-kubernetes-list-map-keys")
    identities = [_identity(item, keys) for item in value] if "x-kubernetes-list-type" in schema else []
    for index, identity in enumerate(identities):
        if identity in identities[:index]:
            yield Problem(f"{path}[{index}]", f"Duplicate value: {identity}")


def _identity(item: Any, keys: list[str] | None) -> str:
    told = {key: item[key] for key in keys if key in item} if keys and isinstance(item, dict) else item
    return json.dumps(told, separators=(",", ":"))
