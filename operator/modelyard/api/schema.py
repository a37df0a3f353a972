"""From a pydantic model to a structural schema, as a CRD holds it.

Structural means: every level has a type, nothing is referenced, and there is no null: a field that is left out has its default, or
none. https://kubernetes.io/docs/tasks/extend-kubernetes/custom-resources/custom-resource-definitions/#specifying-a-structural-schema
"""

from datetime import timedelta
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from modelyard.api import durations
from modelyard.api.markers import FORBIDDEN, RULES, JsonSchema, Rule

_KEPT = (
    "type",
    "enum",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "pattern",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "required",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
)


class _Generator(GenerateJsonSchema):
    """Writes default durations as users write them."""

    def encode_default(self, dft: Any) -> Any:
        return durations.render(dft) if isinstance(dft, timedelta) else super().encode_default(dft)


def structural(model: type[BaseModel]) -> JsonSchema:
    """Returns the structural schema of a model, rules and defaults included."""
    whole = model.model_json_schema(by_alias=True, mode="validation", schema_generator=_Generator)
    return _convert(whole, whole.get("$defs", {}))


def _convert(schema: JsonSchema, definitions: JsonSchema) -> JsonSchema:
    source = _resolved(schema, definitions)
    result: JsonSchema = {key: source[key] for key in ("description",) if key in source}
    result |= {key: source[key] for key in _KEPT if key in source}
    result |= _exclusive(source) | _default(source)
    if "const" in source:
        result["enum"] = [source["const"]]
    if source.get("x-kubernetes-int-or-string"):
        result["anyOf"] = source["anyOf"]
    if "items" in source:
        result["items"] = _convert(source["items"], definitions)
    if isinstance(source.get("additionalProperties"), dict):
        result["additionalProperties"] = _convert(source["additionalProperties"], definitions)
    if "properties" in source:
        result["properties"] = {name: _convert(field, definitions) for name, field in source["properties"].items()}
    rules = [*source.get(RULES, ()), *_forbidden(source.get("properties", {}), definitions)]
    return result | ({RULES: rules} if rules else {})


def _resolved(schema: JsonSchema, definitions: JsonSchema) -> JsonSchema:
    """Follows a reference, and takes the one alternative that is not null; what is said beside them wins, rules add up."""
    inner: JsonSchema = {}
    if "$ref" in schema:
        inner = _resolved(definitions[schema["$ref"].removeprefix("#/$defs/")], definitions)
    elif "anyOf" in schema and not schema.get("x-kubernetes-int-or-string"):
        (alternative,) = [one for one in schema["anyOf"] if one.get("type") != "null"]
        inner = _resolved(alternative, definitions)
    beside = {key: value for key, value in schema.items() if key not in ("$ref", "$defs", "anyOf" if inner else "")}
    rules = [*inner.get(RULES, ()), *schema.get(RULES, ())]
    return inner | beside | ({RULES: rules} if rules else {})


def _exclusive(source: JsonSchema) -> JsonSchema:
    """Exclusive bounds as OpenAPI 3.0 writes them: a flag beside the bound."""
    bounds = (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum"))
    return {
        key: value
        for flag, bound in bounds
        if not isinstance(source.get(flag, True), bool)
        for key, value in ((bound, source[flag]), (flag, True))
    }


def _default(source: JsonSchema) -> JsonSchema:
    """The default, where it says something. That of a part is empty: its fields have their own, filled in level by level."""
    default = source.get("default")
    if isinstance(default, dict) and "properties" in source:
        return {"default": {}}
    return {"default": default} if default not in (None, "", [], {}) else {}


def _forbidden(properties: JsonSchema, definitions: JsonSchema) -> list[JsonSchema]:
    """The rules against fields that nothing acts on yet; they stand one level up, where absence can be asked for."""
    marked = {name: _resolved(field, definitions) for name, field in properties.items() if FORBIDDEN in field}
    return [
        Rule(_unset(name, field), "not supported yet: leave it out", field_path=f".{name}", reason="FieldValueForbidden").to_dict()
        for name, field in marked.items()
    ]


def _unset(name: str, field: JsonSchema) -> str:
    default = field.get("default")
    if isinstance(default, bool):
        return f"self.{name} == {str(default).lower()}"
    return f"!has(self.{name})" + (f" || size(self.{name}) == 0" if default == [] else "")
