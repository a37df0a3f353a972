"""Schemas of what does not fit a schema, for `not`, `if`, `oneOf` and what counts.

A negation may leave out some of what does not fit, where a grammar cannot tell it; what it lets through never fits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import combinations, pairwise
from typing import Any

from modelyard_runtime.structured.keywords import TYPES
from modelyard_runtime.structured.walk import Inexpressible, Schema, Walk

#: Characters of the regular expression for all texts but a few.
_MOST_PATTERN = 20_000
#: Beyond it whole numbers are not exact as doubles.
_MOST_EXACT = 1 << 53
#: Alternatives of a `oneOf` that is negated.
_MOST_OF_ONE = 6
#: Properties inside of properties by which alternatives are told apart.
_MOST_DEPTH = 4

Alternatives = list[Schema]


def negated(walk: Walk, schema: Schema, following: frozenset[str] = frozenset()) -> Schema:
    """Returns a schema of values that do not fit a checked one. ``following`` are the references on the way. Raises Inexpressible."""
    if isinstance(schema, bool):
        return not schema
    walk.charge()
    alternatives: Alternatives = []
    untold = ""
    for keyword in schema:
        if keyword in _SAID_WITH_OTHERS:
            continue
        if keyword == "$ref":
            alternatives.append(_of_reference(walk, schema["$ref"], following))
        elif keyword in _NEGATIONS:
            alternatives += _NEGATIONS[keyword](walk, schema, following)
        elif keyword in _LEFT_OUT:
            untold = keyword
        else:
            raise Inexpressible(f"what does not fit '{keyword}' cannot be told; use const, enum, type, required or bounds there")
    possible = [one for one in alternatives if one is not False]
    if not possible and untold and schema[untold] is not True:
        raise Inexpressible(f"what does not fit '{untold}' alone cannot be told; use const, enum, type, required or bounds there")
    return {"anyOf": possible} if len(possible) > 1 else possible[0] if possible else False


def apart(walk: Walk, one: Schema, other: Schema, depth: int = 0) -> bool:
    """Whether no value fits both schemas, as far as their types, fixed values and properties show."""
    walk.compare()
    one, other = walk.follow(one), walk.follow(other)
    kinds, others = _kinds(one), _kinds(other)
    if not kinds & others:
        return True
    values, other_values = _fixed(one), _fixed(other)
    if values is not None and other_values is not None:
        return not any(same(value, another) for value in values for another in other_values)
    if depth > _MOST_DEPTH or isinstance(one, bool) or isinstance(other, bool) or kinds != {"object"} or others != {"object"}:
        return False
    names = dict.fromkeys([*one.get("required", ()), *other.get("required", ())])
    return any(apart(walk, _property(one, name), _property(other, name), depth + 1) for name in names)


def same(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: 1 is 1.0 and not true. Truths inside of lists and objects may be taken for numbers."""
    return bool(one == other) and isinstance(one, bool) is isinstance(other, bool)


def _kinds(schema: Any) -> frozenset[str]:
    """Returns the types of values that may fit a schema; numbers are one type."""
    if not isinstance(schema, dict):
        return TYPES - {"integer"} if schema else frozenset()
    names: Any = [schema["type"]] if isinstance(schema.get("type"), str) else schema.get("type")
    if names is None:
        values = _fixed(schema)
        names = TYPES if values is None else frozenset[str]().union(*map(types_of, values))
    return frozenset("number" if name == "integer" else name for name in names)


def _fixed(schema: Any) -> list[Any] | None:
    if not isinstance(schema, dict):
        return None
    return [schema["const"]] if "const" in schema else schema.get("enum")


def _property(schema: dict[str, Any], name: str) -> Schema:
    closed = schema.get("additionalProperties", True) is False and not schema.get("patternProperties")
    value: Schema = schema.get("properties", {}).get(name, not closed)
    return value


def types_of(value: Any) -> frozenset[str]:
    """Returns the types of a JSON value: two for whole numbers."""
    match value:
        case bool():
            return frozenset({"boolean"})
        case int():
            return frozenset({"integer", "number"})
        case float():
            return frozenset({"integer", "number"} if value.is_integer() else {"number"})
        case str():
            return frozenset({"string"})
        case None:
            return frozenset({"null"})
    return frozenset({"array" if isinstance(value, list) else "object"})


def other_types(*names: str) -> dict[str, Any]:
    """Returns a schema of the values of all other types; numbers that are not whole cannot be told from those that are."""
    gone = set(names) | ({"number", "integer"} if {"number", "integer"} & set(names) else set())
    return {"type": sorted(TYPES - gone - {"integer"})}


def _of_reference(walk: Walk, reference: str, following: frozenset[str]) -> Schema:
    if reference in following:
        raise Inexpressible("what does not fit a schema that refers to itself cannot be told; do not refer to it there")
    return negated(walk, walk.resolve(reference), following | {reference})


def _type(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    names = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    others = other_types(*names)
    return [others] if others["type"] else []


def _const(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return _other_than([schema["const"]])


def _enum(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return _other_than(schema["enum"])


def _other_than(values: Sequence[Any]) -> Alternatives:
    kinds = frozenset[str]().union(*map(types_of, values))
    rest: Alternatives = [other_types(*kinds)]
    if "string" in kinds:
        rest.append({"type": "string", "pattern": _other_texts([value for value in values if isinstance(value, str)])})
    if "number" in kinds:
        rest += _other_numbers(sorted({value for value in values if "number" in types_of(value)}))
    truths = {value for value in values if isinstance(value, bool)}
    if len(truths) == 1:
        rest.append({"const": not truths.pop()})
    for kind, least in (("array", "minItems"), ("object", "minProperties")):
        if kind in kinds:
            if any(value for value in values if kind in types_of(value)):
                raise Inexpressible(f"what is not one {kind} in particular cannot be told; compare plain values")
            rest.append({"type": kind, least: 1})
    return rest


def _other_numbers(values: Sequence[float]) -> Alternatives:
    if any(abs(value) > _MOST_EXACT for value in values):
        raise Inexpressible(f"numbers beyond {_MOST_EXACT} cannot be told apart; compare smaller ones")
    between = [{"type": "number", "exclusiveMinimum": low, "exclusiveMaximum": high} for low, high in pairwise(values)]
    return [{"type": "number", "exclusiveMaximum": values[0]}, *between, {"type": "number", "exclusiveMinimum": values[-1]}]


def _other_texts(texts: Iterable[str]) -> str:
    """Returns a regular expression of all texts but these: each leaves them at some place, or ends before they do."""
    texts = set(texts)
    nexts: dict[str, set[str]] = {}
    for text in texts:
        for end, sign in enumerate(text):
            nexts.setdefault(text[:end], set()).add(sign)
    if sum(map(len, nexts)) * 4 > _MOST_PATTERN:
        raise Inexpressible("the values are too long to be told from all others; compare shorter ones")
    ways = []
    for begin in sorted(nexts.keys() | texts):
        others = "".join(map(_sign, sorted(nexts.get(begin, ()))))
        ways.append(_signs(begin) + (f"[^{others}]" if others else "(?s:.)") + "(?s:.*)")
        if begin not in texts:
            ways.append(_signs(begin))
    return f"^(?:{'|'.join(ways)})$"


def _signs(text: str) -> str:
    return "".join(map(_sign, text))


def _sign(sign: str) -> str:
    return sign if sign.isascii() and sign.isalnum() else f"\\x{{{ord(sign):x}}}"


def _required(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return [{"type": "object", "properties": {name: False}} for name in schema["required"]]


def _properties(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    others = {name: negated(walk, value, following) for name, value in schema["properties"].items()}
    return [{"type": "object", "required": [name], "properties": {name: other}} for name, other in others.items() if other is not False]


def _items(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    if "prefixItems" in schema:
        raise Inexpressible("what does not fit 'items' beside 'prefixItems' cannot be told; leave one of them out there")
    other = negated(walk, schema["items"], following)
    return [] if other is False else [{"type": "array", "contains": other}]


def _contains(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    if "maxContains" in schema or schema.get("minContains", 1) != 1:
        raise Inexpressible("what does not fit 'contains' with 'minContains' or 'maxContains' cannot be told; leave those out there")
    return [{"type": "array", "items": negated(walk, schema["contains"], following)}]


def _all_of(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return [negated(walk, one, following) for one in schema["allOf"]]


def _any_of(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    others = [negated(walk, one, following) for one in schema["anyOf"]]
    return [] if False in others else [{"allOf": others}]


def _one_of(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    """None of them fits, or two do."""
    if len(schema["oneOf"]) > _MOST_OF_ONE:
        raise Inexpressible(f"what does not fit 'oneOf' of more than {_MOST_OF_ONE} cannot be told; use anyOf there")
    none = _any_of(walk, {"anyOf": schema["oneOf"]}, following)
    return [*none, *({"allOf": list(pair)} for pair in combinations(schema["oneOf"], 2) if not apart(walk, *pair))]


def _not(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return [schema["not"]]


def _if(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    otherwise = negated(walk, schema["if"], following)
    ways = ((schema["if"], schema.get("then", True)), (otherwise, schema.get("else", True)))
    outcomes = [(condition, negated(walk, outcome, following)) for condition, outcome in ways]
    return [{"allOf": [condition, other]} for condition, other in outcomes if condition is not False and other is not False]


def _dependent_required(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return [
        {"type": "object", "required": [name], "properties": {other: False}}
        for name, others in schema["dependentRequired"].items()
        for other in others
        if other != name
    ]


def _dependent_schemas(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
    return [
        {"type": "object", "required": [name], "allOf": [negated(walk, value, following)]}
        for name, value in schema["dependentSchemas"].items()
    ]


def _bound(kind: str, keyword: str, opposite: str, step: int = 0) -> Negation:
    """Returns the negation of a bound: at least 3 items becomes at most 2."""

    def negation(walk: Walk, schema: dict[str, Any], following: frozenset[str]) -> Alternatives:
        value = schema[keyword] + step
        return [{"type": kind, opposite: value}] if kind == "number" or value >= 0 else []

    return negation


Negation = Callable[[Walk, dict[str, Any], frozenset[str]], Alternatives]
_NEGATIONS: dict[str, Negation] = {
    "type": _type,
    "const": _const,
    "enum": _enum,
    "required": _required,
    "properties": _properties,
    "items": _items,
    "contains": _contains,
    "allOf": _all_of,
    "anyOf": _any_of,
    "oneOf": _one_of,
    "not": _not,
    "if": _if,
    "dependentRequired": _dependent_required,
    "dependentSchemas": _dependent_schemas,
    "minimum": _bound("number", "minimum", "exclusiveMaximum"),
    "maximum": _bound("number", "maximum", "exclusiveMinimum"),
    "exclusiveMinimum": _bound("number", "exclusiveMinimum", "maximum"),
    "exclusiveMaximum": _bound("number", "exclusiveMaximum", "minimum"),
    "minLength": _bound("string", "minLength", "maxLength", -1),
    "maxLength": _bound("string", "maxLength", "minLength", 1),
    "minItems": _bound("array", "minItems", "maxItems", -1),
    "maxItems": _bound("array", "maxItems", "minItems", 1),
    "minProperties": _bound("object", "minProperties", "maxProperties", -1),
    "maxProperties": _bound("object", "maxProperties", "minProperties", 1),
}
#: They say nothing of a value by themselves.
_SAID_WITH_OTHERS = frozenset({"$defs", "definitions", "then", "else", "minContains", "maxContains"})
#: Objects with a property too many are no answer that anybody waits for: a negation leaves them out.
_LEFT_OUT = frozenset({"additionalProperties", "unevaluatedProperties"})
