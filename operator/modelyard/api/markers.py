"""Marks on the fields and classes of a resource, from which the CRD's validation rules are generated.

Each mark adds to the JSON schema that pydantic makes of its field; `modelyard.api.schema` turns that into a structural schema.
"""

from dataclasses import dataclass
from typing import Any

from pydantic import GetJsonSchemaHandler
from pydantic_core import CoreSchema

RULES = "x-kubernetes-validations"
FORBIDDEN = "x-not-yet"  # taken out again by modelyard.api.schema, which writes the rule one level up

JsonSchema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule on the annotated field or class; ``message`` is what the user reads, so it names the remedy.

    ``field_path`` (such as ``.limits.maxQueue``) says which field below a rule on a class is at fault; ``reason`` is one of the API
    server's: FieldValueInvalid (when empty), FieldValueForbidden, FieldValueRequired, FieldValueDuplicate.

    https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#validation-rules
    """

    cel: str
    message: str
    field_path: str = ""
    reason: str = ""

    def to_dict(self) -> JsonSchema:
        """Returns the rule as it stands in a CRD."""
        optional = {"fieldPath": self.field_path, "reason": self.reason}
        return {"rule": self.cel, "message": self.message} | {key: value for key, value in optional.items() if value}

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        schema = handler(core)
        return {**schema, RULES: [*schema.get(RULES, ()), self.to_dict()]}


@dataclass(frozen=True, slots=True)
class NotYet:
    """The field is part of the API and nothing acts on it: setting it is refused with "not supported yet"."""

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        return {**handler(core), FORBIDDEN: True}


@dataclass(frozen=True, slots=True)
class OnlyYet:
    """Of the field's values, only these are acted on; the others are refused with "not supported yet"."""

    values: tuple[str, ...]

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        schema = handler(core)
        allowed = f"[{', '.join(repr(value) for value in self.values)}]"
        cel = f"self.all(value, value in {allowed})" if schema.get("type") == "array" else f"self in {allowed}"
        rule = Rule(cel, f"not supported yet: use {' or '.join(self.values)}", reason="FieldValueForbidden")
        return {**schema, RULES: [*schema.get(RULES, ()), rule.to_dict()]}


@dataclass(frozen=True, slots=True)
class Keyed:
    """The items of the list are unique: by ``key``, or as a whole where it is None. Server-side apply then merges them one by one."""

    key: str | None = None

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchema:
        kind: JsonSchema = {"x-kubernetes-list-type": "set"}
        if self.key:
            kind = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [self.key]}
        return {**handler(core), **kind}
