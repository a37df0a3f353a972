"""Keywords that a grammar has no words for, written out as alternatives of those it has: `if` as what fits it, or what does not.

A schema that was checked goes in, and one of keywords that the grammar's library keeps comes out. What fits that one fits the first: it may
be narrower where that is how a grammar can be made at all (items in the order of their list), never wider.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

from modelyard_runtime.structured.counting import Ways, contains, properties_between, says_items, unique_items
from modelyard_runtime.structured.keywords import EXACT_FORMATS, SCHEMA, SCHEMA_LIST, SCHEMA_MAP
from modelyard_runtime.structured.negation import apart, negated, other_types
from modelyard_runtime.structured.walk import Inexpressible, Schema, SchemaRefused, Walk

#: Keywords of one object that each double its alternatives.
_MOST_DEPENDENT = 8
_MOST_ALTERNATIVES = 8
#: How far inside a bound that excludes itself numbers begin, of the bound and at least: the library reads bounds to 15 digits or so.
_STEP, _LEAST_STEP = 2.0**-50, 1e-30
#: Keywords whose properties `unevaluatedProperties` counts where they apply, which no grammar can follow.
_CONDITIONAL = ("anyOf", "oneOf", "if", "dependentSchemas")

Rule = Callable[[Walk, dict[str, Any]], list[Schema]]


def written_out(walk: Walk, schema: Schema, path: str) -> Schema:
    """Returns a checked schema without the keywords that grammars have no words for. Raises SchemaRefused."""
    if isinstance(schema, bool):
        return schema
    walk.charge()
    result: dict[str, Any] = {}
    more: list[Schema] = []
    said: set[str] = set()
    for keyword, value in schema.items():
        if keyword not in _GONE:
            result[keyword] = _inner(walk, keyword, value, path)
            continue
        conditions = [written_out(walk, condition, f"{path}.{keyword}") for condition in _conditions(walk, schema, keyword, path)]
        if conditions and says_items(walk, keyword, schema):
            said.add("items")
        for condition in conditions:
            if keyword == "oneOf" and "anyOf" not in schema and isinstance(condition, dict):
                result |= condition  # where it stands: the order of properties hangs on it
            else:
                more.append(condition)
    if more:
        result["allOf"] = [*result.get("allOf", ()), *more]
    for keyword in said:
        result.pop(keyword, None)
    return _exact_bounds(result | _counts(schema))


def _inner(walk: Walk, keyword: str, value: Any, path: str) -> Any:
    if keyword in SCHEMA:
        return written_out(walk, value, f"{path}.{keyword}")
    if keyword in SCHEMA_LIST:
        return [written_out(walk, one, f"{path}.{keyword}[{index}]") for index, one in enumerate(value)]
    if keyword in SCHEMA_MAP:
        return {name: written_out(walk, one, f"{path}.{keyword}.{name}") for name, one in value.items()}
    return value


def _conditions(walk: Walk, schema: dict[str, Any], keyword: str, path: str) -> list[Schema]:
    try:
        return _RULES[keyword](walk, schema) if keyword in _RULES else []
    except Inexpressible as problem:
        if walk.lenient:
            return []
        raise SchemaRefused(f"{path}.{keyword}", f"'{keyword}' is not supported here: {problem}") from problem


def _either(schema: dict[str, Any], kind: str, ways: Sequence[dict[str, Any]]) -> Schema:
    """Returns a schema of values of one type that go one of several ways; those of other types are free."""
    others = [] if schema.get("type") == kind else [other_types(kind)]
    possible = [*others, *({"type": kind, **way} for way in ways)]
    return {"anyOf": possible} if possible else False


def _not(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    return [negated(walk, schema["not"])]


def _if(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    if "then" not in schema and "else" not in schema:
        return []
    met = {"allOf": [schema["if"], schema.get("then", True)]}
    return [{"anyOf": [met, {"allOf": [negated(walk, schema["if"]), schema.get("else", True)]}]}]


def _dependent_required(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    dependent = {name: {"required": [name, *others]} for name, others in schema["dependentRequired"].items() if others}
    return _dependent(schema, dependent)


def _dependent_schemas(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    return _dependent(schema, {name: {"required": [name], "allOf": [one]} for name, one in schema["dependentSchemas"].items()})


def _dependent(schema: dict[str, Any], dependent: dict[str, dict[str, Any]]) -> list[Schema]:
    if len(dependent) > _MOST_DEPENDENT:
        raise Inexpressible(f"more than {_MOST_DEPENDENT} properties that others depend on are too many; require some of them")
    return [_either(schema, "object", [{"properties": {name: False}}, way]) for name, way in dependent.items()]


def _one_way(kind: str, ways_of: Callable[[Walk, dict[str, Any]], Ways | None]) -> Rule:
    """Returns the rule of a keyword that counts."""

    def rule(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
        ways = ways_of(walk, schema)
        return [] if ways is None else [_either(schema, kind, ways)]

    return rule


def _property_names(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    """A pattern of names, or a list of them: no property has another."""
    names = walk.follow(schema["propertyNames"], alone=True)
    if isinstance(names, bool):
        return [] if names else [_either(schema, "object", [{"maxProperties": 0}])]
    if not set(names) - {"type"}:
        return [] if "string" in names.get("type", "string") else [_either(schema, "object", [{"maxProperties": 0}])]
    listed = names.get("enum", [names["const"]] if "const" in names else None)
    if listed is not None and not set(names) - {"type", "enum", "const"}:
        properties = {name: True for name in listed if isinstance(name, str)}
        return [_either(schema, "object", [{"properties": properties, "additionalProperties": False}])]
    pattern = _pattern(names)
    if pattern is None:
        raise Inexpressible("names can be bound by 'enum', 'const', one 'pattern', or lengths alone; use one of those")
    return [_either(schema, "object", [{"patternProperties": {pattern: True}, "additionalProperties": False}])]


def _pattern(names: dict[str, Any]) -> str | None:
    """Returns a regular expression of names; None where it takes more than one."""
    keywords = set(names) - {"type"}
    if keywords == {"pattern"}:
        return str(names["pattern"])
    if keywords <= {"minLength", "maxLength"}:
        return f"^(?s:.{{{names.get('minLength', 0)},{names.get('maxLength', '')}}})$"
    return EXACT_FORMATS.get(names["format"]) if keywords == {"format"} else None


def _unevaluated_properties(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    if schema["unevaluatedProperties"] is True:
        return []
    if schema["unevaluatedProperties"] is not False:
        raise Inexpressible("only true and false can be kept; set 'additionalProperties' to the schema instead")
    known: dict[str, Any] = {"properties": {}, "patternProperties": {}, "additionalProperties": False}
    return [] if _evaluated(walk, schema, known, set()) else [_either(schema, "object", [known])]


def _evaluated(walk: Walk, schema: Any, known: dict[str, Any], seen: set[str]) -> bool:
    """Collects the properties that a schema speaks of; returns whether it speaks of all."""
    if not isinstance(schema, dict):
        return False
    if any(keyword in schema for keyword in _CONDITIONAL):
        raise Inexpressible("beside alternatives it cannot be followed; set 'additionalProperties' to false in each of them")
    for keyword in ("properties", "patternProperties"):
        known[keyword] |= dict.fromkeys(schema.get(keyword, ()), True)
    parts = list(schema.get("allOf", ()))
    if "$ref" in schema and schema["$ref"] not in seen:
        seen.add(schema["$ref"])
        parts.append(walk.resolve(schema["$ref"]))
    return any(_evaluated(walk, part, known, seen) for part in parts) or "additionalProperties" in schema


def _unevaluated_items(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    if schema["unevaluatedItems"] is True or "items" in schema:
        return []
    if schema["unevaluatedItems"] is not False or any(keyword in schema for keyword in (*_CONDITIONAL, "allOf", "$ref", "contains")):
        raise Inexpressible("it is kept beside 'prefixItems' alone; set 'items' instead")
    places = len(schema.get("prefixItems", ()))
    return [_either(schema, "array", [{"prefixItems": [True] * places, "items": False} if places else {"maxItems": 0}])]


def _one_of(walk: Walk, schema: dict[str, Any]) -> list[Schema]:
    """One of several, and none of the others: those are left unsaid where they are apart anyway."""
    alternatives = schema["oneOf"]
    if walk.lenient:
        return [{"anyOf": alternatives}]
    places = range(len(alternatives))
    pairs = [(at, to) for at, to in combinations(places, 2) if not apart(walk, alternatives[at], alternatives[to])]
    near = [[to if one == at else one for one, to in pairs if at in {one, to}] for at in places]
    if len(alternatives) > _MOST_ALTERNATIVES and any(near):
        raise Inexpressible(f"more than {_MOST_ALTERNATIVES} alternatives that nothing tells apart are too many; give each a constant tag")
    nots = [negated(walk, one) if any(at in row for row in near) else True for at, one in enumerate(alternatives)]
    return [{"anyOf": [{"allOf": [one, *(nots[to] for to in near[at])]} if near[at] else one for at, one in enumerate(alternatives)]}]


def _counts(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the counts of properties that are the library's to keep: where no property is optional."""
    required = schema.get("required", ())
    if any(value is not False and name not in required for name, value in schema.get("properties", {}).items()):
        return {}
    keep = {keyword: schema[keyword] for keyword in ("minProperties", "maxProperties") if keyword in schema}
    return {keyword: count for keyword, count in keep.items() if keyword == "maxProperties" or count > len(required)}


def _exact_bounds(schema: dict[str, Any]) -> dict[str, Any]:
    """Moves bounds that exclude themselves inside, but for integers: a text of many digits just above 5 is read as 5."""
    if "number" not in schema.get("type", "number"):
        return schema
    for keyword, inner, sign, tighter in (("exclusiveMinimum", "minimum", 1, max), ("exclusiveMaximum", "maximum", -1, min)):
        if keyword in schema:
            bound = schema.pop(keyword)
            inside = bound + sign * max(abs(bound) * _STEP, _LEAST_STEP)
            schema[inner] = tighter(inside, schema.get(inner, inside))
    return schema


_COUNTED = _one_way("object", properties_between)
_RULES: dict[str, Rule] = {
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "contains": _one_way("array", contains),
    "uniqueItems": _one_way("array", unique_items),
    "propertyNames": _property_names,
    "minProperties": _COUNTED,
    "maxProperties": lambda walk, schema: [] if "minProperties" in schema else _COUNTED(walk, schema),
    "unevaluatedProperties": _unevaluated_properties,
    "unevaluatedItems": _unevaluated_items,
}
_GONE = _RULES.keys() | {"then", "else", "minContains", "maxContains"}
