"""The field reference of InferenceModel as a Markdown table."""

from collections.abc import Iterator
from typing import NamedTuple

from modelyard.api.inference_model import InferenceModelSpec
from modelyard.api.markers import RULES, JsonSchema
from modelyard.api.schema import structural

_INTRODUCTION = """# InferenceModel: the fields of `spec`

Generated from the types by `make crds`; `kubectl explain im.spec --recursive` says the same. Durations are texts with a unit (`30s`,
`5m`, `1h30m`), quantities are Kubernetes' own (`500m`, `16Gi`). A field marked *not supported yet* has its place and is refused.

| field | type | default | meaning |
|---|---|---|---|
"""


class Field(NamedTuple):
    """A row of the reference."""

    path: str
    schema: JsonSchema
    required: bool
    refused: bool


def reference() -> str:
    """Returns the whole page."""
    return _INTRODUCTION + "".join(_row(field) for field in fields(structural(InferenceModelSpec)))


def fields(schema: JsonSchema, prefix: str = "") -> Iterator[Field]:
    """Yields the fields below an object, depth first; ``[]`` marks items of a list."""
    refused = {rule.get("fieldPath", "")[1:] for rule in schema.get(RULES, ()) if rule["message"].startswith("not supported yet")}
    for name, inner in schema.get("properties", {}).items():
        field = Field(f"{prefix}{name}", inner, name in schema.get("required", ()), name in refused)
        yield field
        if not field.refused:
            yield from fields(inner, f"{field.path}.")
            yield from fields(inner.get("items", {}), f"{field.path}[].")


def _row(field: Field) -> str:
    cells = (f"`{field.path}`", _type(field.schema), _default(field), _meaning(field).replace("|", "\\|"))
    return f"| {' | '.join(cells)} |\n"


def _meaning(field: Field) -> str:
    only = [
        rule["message"].partition(": use ")[2]
        for rule in field.schema.get(RULES, ())
        if rule["message"].startswith("not supported yet: use ")
    ]
    support = " *Not supported yet.*" if field.refused else f" *Supported yet: {only[0]}.*" if only else ""
    return str(field.schema.get("description", "")) + support


def _default(field: Field) -> str:
    default = field.schema.get("default")
    if field.required:
        return "required"
    return "" if default in (None, {}) else f"`{str(default).lower() if isinstance(default, bool) else default}`"


def _type(schema: JsonSchema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if any("duration(" in rule["rule"] for rule in schema.get(RULES, ())):
        return "duration"
    if "additionalProperties" in schema:
        return "map of text"
    kind = str(schema["type"])
    words = {"string": "text", "boolean": "true or false", "array": f"list of {_type(schema['items'])}" if "items" in schema else ""}
    return words.get(kind, kind) + _range(schema)


def _range(schema: JsonSchema) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    return "" if least is None and most is None else f", {'' if least is None else least} – {'' if most is None else most}"
