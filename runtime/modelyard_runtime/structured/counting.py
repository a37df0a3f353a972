"""Keywords that count: how many items fit, how often one comes, how many properties there are. Each is written out as alternatives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, permutations
from typing import Any

from modelyard_runtime.structured.negation import negated, same
from modelyard_runtime.structured.walk import Inexpressible, Schema, Walk

#: Alternatives that one keyword may become.
_MOST_WAYS = 512
#: Items among which those that `contains` asks for come.
_PLACES = 16
#: Different values up to which integers between two bounds are listed.
_MOST_LISTED = 32
#: Alternatives inside of alternatives that are looked into for values.
_MOST_DEPTH = 8

Ways = list[dict[str, Any]]


def contains(walk: Walk, schema: dict[str, Any]) -> Ways | None:
    """Returns arrays with enough items, and not too many, that fit: among the first 16 where they may be longer.

    None where any number will do. Raises Inexpressible.
    """
    wanted, least, most = schema["contains"], schema.get("minContains", 1), schema.get("maxContains")
    if least == 0 and most is None:
        return None
    other: Schema = True if most is None else negated(walk, wanted)
    counts = range(least, least + 1 if most is None else most + 1)
    places = min(_PLACES, schema.get("maxItems", _PLACES))
    while places and sum(math.comb(places, count) for count in counts) > _MOST_WAYS:
        places -= 1
    if "prefixItems" not in schema:
        items = schema.get("items", True)
        wanted, other = walk.share({"allOf": [items, wanted]}), walk.share({"allOf": [items, other]})
    ways = [_with(chosen, wanted, other) for count in counts for chosen in combinations(range(places), count)]
    if not ways:
        raise Inexpressible(f"a grammar finds at most {_PLACES} items that fit; lower the counts, or raise 'maxItems'")
    return ways


def _with(places: Sequence[int], wanted: Schema, other: Schema) -> dict[str, Any]:
    size = max(places, default=-1) + 1
    first = [wanted if place in places else other for place in range(size)]
    return {**({"prefixItems": first, "minItems": size} if first else {}), **({} if other is True else {"items": other})}


def unique_items(walk: Walk, schema: dict[str, Any]) -> Ways | None:
    """Returns arrays of different items: in any order where those are few, else in the order of the schema.

    None where they cannot be alike. Raises Inexpressible.
    """
    most = schema.get("maxItems", math.inf)
    if schema["uniqueItems"] is False or most <= 1:
        return None
    values = None if "prefixItems" in schema else _values(walk, schema.get("items", True))
    if values is None:
        raise Inexpressible("items are kept different where they have a few fixed values; list those in 'enum', or set 'maxItems' to 1")
    sizes = range(schema.get("minItems", 0), min(len(values), most) + 1)
    for count, arranged in ((math.perm, permutations), (math.comb, combinations)):
        if sum(count(len(values), size) for size in sizes) <= _MOST_WAYS:
            return [_exactly(chosen) for size in sizes for chosen in arranged(values, size)]
    raise Inexpressible(f"there are more than {_MOST_WAYS} ways to choose different items; set 'maxItems', or list fewer values")


def says_items(walk: Walk, keyword: str, schema: dict[str, Any]) -> bool:
    """Whether the ways of a keyword already keep to `items`."""
    if "prefixItems" in schema or keyword not in {"contains", "uniqueItems"}:
        return False
    items = walk.follow(schema.get("items", True), alone=True)
    exact = items.keys() <= {"enum"} or items.keys() <= {"const"} if isinstance(items, dict) else False
    return keyword == "contains" or exact


def _exactly(values: Sequence[Any]) -> dict[str, Any]:
    return {"prefixItems": [{"const": value} for value in values], "minItems": len(values), "maxItems": len(values)}


def _values(walk: Walk, schema: Schema, depth: int = 0) -> list[Any] | None:
    """Returns the values that may fit a schema, each once; None where they are not a few. They need not all fit."""
    walk.compare()
    if depth > _MOST_DEPTH:
        return None
    found: Any = walk.follow(schema)
    match found:
        case {"const": value}:
            values: list[Any] | None = [value]
        case {"enum": listed}:
            values = listed
        case {"anyOf": schemas} | {"oneOf": schemas}:
            parts = [_values(walk, one, depth + 1) for one in schemas]
            values = None if any(part is None for part in parts) else [value for part in parts for value in part or ()]
        case {"type": str(name)}:
            values = _of_type(name, found)
        case _:
            values = None
    if values is None:
        return None
    return [value for index, value in enumerate(values) if not any(same(value, earlier) for earlier in values[:index])]


def _of_type(name: str, schema: dict[str, Any]) -> list[Any] | None:
    match name:
        case "boolean":
            return [False, True]
        case "null":
            return [None]
        case "integer" if {"minimum", "maximum"} <= schema.keys():
            least, most = math.ceil(schema["minimum"]), math.floor(schema["maximum"])
            return list(range(least, most + 1)) if most - least < _MOST_LISTED else None
    return None


def properties_between(walk: Walk, schema: dict[str, Any]) -> Ways | None:
    """Returns objects with as many properties as `minProperties` and `maxProperties` say; None where the library keeps that by itself.

    Names of further properties may come twice, so that those count as one at most. Raises Inexpressible.
    """
    required = set(schema.get("required", ()))
    optional = [name for name, value in schema.get("properties", {}).items() if value is not False and name not in required]
    least, most = schema.get("minProperties", 0) - len(required), schema.get("maxProperties", math.inf) - len(required)
    closed = schema.get("additionalProperties", True) is False and not schema.get("patternProperties")
    if least > 0 and not closed and (least > 1 or required):
        raise Inexpressible(
            "a minimum above 1 and above the number of required properties is not supported where there may be others; remove it, "
            "or list the properties and set 'additionalProperties' to false"
        )
    if not optional or (least <= 0 and most >= len(optional) and (closed or most == math.inf)):
        return None
    if most < max(least, 0):
        return []
    if closed:
        return _closed(optional, max(least, 0), min(most, len(optional)))
    if most == math.inf:
        return [*_required(optional, 1), {"properties": dict.fromkeys(optional, False), "minProperties": 1}]
    bounds: dict[str, Any] = {keyword: schema[keyword] for keyword in ("minProperties", "maxProperties") if keyword in schema}
    return [{**way, **bounds} for way in _just(optional, range(min(int(most), len(optional)) + 1))]


def _closed(optional: Sequence[str], least: int, most: float) -> Ways:
    if most == len(optional):
        return _required(optional, least)
    if least:
        return _just(optional, range(least, int(most) + 1))
    _check(math.comb(len(optional), int(most)))
    return [{"properties": dict.fromkeys(names, False)} for names in combinations(optional, len(optional) - int(most))]


def _required(optional: Sequence[str], count: int) -> Ways:
    _check(math.comb(len(optional), count))
    return [{"required": list(names)} for names in combinations(optional, count)]


def _just(optional: Sequence[str], sizes: range) -> Ways:
    """Returns objects that have just some of the optional properties: so many of them."""
    _check(sum(math.comb(len(optional), size) for size in sizes))
    return [
        {"required": list(names), "properties": {name: False for name in optional if name not in names}}
        for size in sizes
        for names in combinations(optional, size)
    ]


def _check(ways: int) -> None:
    if ways > _MOST_WAYS:
        raise Inexpressible(f"there are more than {_MOST_WAYS} ways to choose the properties; make more of them required, or list fewer")
