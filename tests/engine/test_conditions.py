"""Keywords that grammars have no words for: written out as alternatives, what those let through, and what is refused instead."""

import json
from contextlib import suppress
from typing import Any

import jsonschema
import numpy as np
import pytest
from llguidance import LLMatcher, LLTokenizer
from modelyard_runtime.structured.grammar import grammar, json_rule
from modelyard_runtime.structured.limits import limits
from modelyard_runtime.structured.schema import SchemaRefused, normalised

BYTES = LLTokenizer("byte")
JUDGE = jsonschema.Draft202012Validator


def matcher(schema: dict[str, Any]) -> LLMatcher:
    made = LLMatcher(BYTES, grammar(json_rule(normalised(schema))), log_level=0, limits=limits())
    assert not made.is_error(), made.get_error()
    return made


def accepts(schema: dict[str, Any], text: str) -> bool:
    place, signs = matcher(schema), BYTES.tokenize_str(text)
    return place.try_consume_tokens(signs) == len(signs) and place.is_accepting()


def closed(*required: str, **more: Any) -> dict[str, Any]:
    """Returns objects of three numbers and nothing else."""
    properties = {name: {"type": "integer", "minimum": 0, "maximum": 9} for name in "abc"}
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False, **more}


def tags(*names: str, **more: Any) -> dict[str, Any]:
    return {"type": "array", "items": {"enum": list(names)}, **more}


def either(name: str, **more: Any) -> dict[str, Any]:
    return {"properties": {name: {"const": 1}}, "required": [name], **more}


SHOP = {
    "type": "object",
    "properties": {"country": {"enum": ["US", "NL"]}, "zip": {"type": "string", "pattern": "^[0-9]{2}$"}, "post": {"type": "string"}},
    "required": ["country"],
    "additionalProperties": False,
    "if": {"properties": {"country": {"const": "US"}}},
    "then": {"required": ["zip"], "properties": {"post": False}},
    "else": {"required": ["post"]},
}
CARD = closed(dependentRequired={"a": ["b"], "b": ["a"]})
TREE = {
    "$defs": {"leaf": {"enum": [0, 1]}, "node": closed(dependentSchemas={"a": {"properties": {"b": {"$ref": "#/$defs/leaf"}}}})},
    "$ref": "#/$defs/node",
}

# A schema, texts that fit it, and texts that do not.
TABLE: list[tuple[dict[str, Any], list[str], list[str]]] = [
    (SHOP, ['{"country":"US","zip":"12"}', '{"country":"NL","zip":"12","post":""}'], ['{"country":"US"}', '{"country":"NL","zip":"12"}']),
    (closed(**{"if": either("a"), "then": {"required": ["c"]}}), ["{}", '{"a":2}', '{"a":1,"c":0}'], ['{"a":1}', '{"a":1,"b":1}']),
    (closed(**{"if": either("a"), "else": False}), ['{"a":1}'], ["{}", '{"a":2}']),
    (closed(**{"then": False}), ["{}"], []),
    (CARD, ["{}", '{"a":1,"b":2}', '{"c":1}'], ['{"a":1}', '{"b":1,"c":2}']),
    (TREE, ['{"a":3,"b":1}', '{"b":7}'], ['{"a":3,"b":7}']),
    (closed("a", **{"not": either("a")}), ['{"a":2}', '{"a":0,"b":1}'], ['{"a":1}']),
    (closed(**{"not": {"required": ["a", "b"]}}), ['{"a":1}', '{"b":1,"c":1}'], ['{"a":1,"b":1}']),
    ({"type": "string", "not": {"enum": ["no", "nope", ""]}}, ['"yes"', '"n"', '"nop"', '"nopes"'], ['""', '"no"', '"nope"', "1"]),
    ({"not": {"type": ["string", "number"]}}, ["true", "null", "[]"], ['"a"', "1", "1.5"]),
    ({"type": "integer", "not": {"enum": [1, 3.0]}}, ["0", "2", "4"], ["1", "3"]),
    ({"type": "number", "not": {"const": 1}}, ["0.5", "2"], ["1", "1.0", "1.00000000000000000001"]),
    ({"type": "boolean", "not": {"const": True}}, ["false"], ["true"]),
    ({"type": "array", "items": {"type": "boolean"}, "not": {"const": []}}, ["[true]"], ["[]"]),
    ({"type": "array", "items": {"type": "boolean"}, "not": {"items": {"const": True}}}, ["[false]", "[true,false]"], ["[]", "[true]"]),
    ({"type": "array", "items": {"enum": [1, 2]}, "not": {"contains": {"const": 1}}}, ["[]", "[2,2]"], ["[1]", "[2,1]"]),
    ({"type": "integer", "minimum": 0, "not": {"minimum": 5, "maximum": 7}}, ["4", "8"], ["5", "7"]),
    ({"type": "string", "not": {"not": {"maxLength": 1}}}, ['"a"'], ['"ab"']),
    ({"type": "string", "maxLength": 4, "not": {"minLength": 2}}, ['""', '"a"'], ['"ab"']),
    ({"type": "integer", "not": {"anyOf": [{"maximum": 1}, {"minimum": 5}]}}, ["2", "4"], ["1", "5"]),
    ({"type": "integer", "not": {"allOf": [{"minimum": 1}, {"maximum": 5}]}}, ["0", "6"], ["1", "5"]),
    (
        {"type": "integer", "minimum": 0, "maximum": 9, "oneOf": [{"maximum": 5}, {"minimum": 3}, {"const": 9}]},
        ["0", "2", "6"],
        ["3", "5", "9"],
    ),
    (closed(oneOf=[{"required": ["a"]}, {"required": ["b"]}]), ['{"a":1}', '{"b":1,"c":1}'], ["{}", '{"a":1,"b":1}']),
    ({"oneOf": [closed("a"), {"type": "string"}, {"type": "integer"}]}, ['{"a":1}', '""', "3"], ["null", "1.5"]),
    ({"not": {"oneOf": [{"const": 1}, {"type": "integer"}]}, "enum": [1, 2, "a"]}, ["1", '"a"'], ["2"]),
    ({"type": "number", "multipleOf": 0.25}, ["0.75", "-2", "0"], ["0.3", "0.125"]),
    ({"type": "number", "multipleOf": 0.25, "minimum": 0, "maximum": 1}, ["0.75", "1"], ["0.7", "1.25"]),
    (tags("x", "y", "z", uniqueItems=True), ["[]", '["z","x"]', '["y","z","x"]'], ['["x","x"]', '["x","y","x"]', '["q"]']),
    (tags(*"abcdefghi", uniqueItems=True), ["[]", '["a","c","i"]'], ['["a","a"]', '["a"," "]']),
    (tags(*map(str, range(20)), uniqueItems=True, maxItems=2), ['["19","3"]'], ['["3","3"]', '["1","2","3"]']),
    ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True}, ["[true,false]"], ["[true,true]"]),
    ({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 3}, "uniqueItems": True}, ["[3,1]"], ["[3,3]", "[4]"]),
    ({"type": "array", "items": {"enum": [1, 1.0, True]}, "uniqueItems": True}, ["[true,1]"], ["[1,1.0]"]),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": True, "maxItems": 1}, ['["a"]'], ['["a","a"]']),
    ({"type": "array", "items": {"type": "string"}, "uniqueItems": False}, ['["a","a"]'], []),
    (tags("x", "y", contains={"const": "x"}), ['["y","x"]', '["x","x"]'], ["[]", '["y"]']),
    (tags("x", "y", contains={"const": "x"}, minContains=2, maxContains=2), ['["x","y","x"]', '["x","x","y"]'], ['["x"]', '["x","x","x"]']),
    (tags("x", "y", contains={"const": "x"}, minContains=0, maxContains=1), ["[]", '["y","x"]'], ['["x","x"]']),
    (tags("x", "y", contains={"const": "x"}, minContains=0), ["[]", '["y"]'], ['["z"]']),
    (tags("x", "y", minContains=3), ["[]"], []),
    ({"type": "object", "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "null"}}, ['{"a":null}'], ['{"c":null}']),
    ({"type": "object", "propertyNames": {"pattern": "^x"}, "properties": {"y": True}}, ['{"x1":1}', "{}"], ['{"y":1}', '{"ax":1}']),
    ({"type": "object", "propertyNames": {"maxLength": 2}}, ['{"ab":1}'], ['{"abc":1}']),
    ({"type": "object", "propertyNames": {"format": "date"}}, ['{"2026-11-21":1}'], []),
    (closed(minProperties=2), ['{"a":1,"b":1}', '{"a":1,"b":1,"c":1}'], ["{}", '{"a":1}']),
    (closed(maxProperties=1), ["{}", '{"b":1}'], ['{"a":1,"b":1}']),
    (closed("a", minProperties=2, maxProperties=2), ['{"a":1,"c":1}'], ['{"a":1}', '{"a":1,"b":1,"c":1}']),
    ({"type": "object", "properties": {"a": True}, "minProperties": 1}, ['{"a":1}', '{"x":1}'], ["{}"]),
    ({"type": "object", "properties": {"a": True}, "maxProperties": 1}, ['{"a":1}', '{"x":1}', "{}"], ['{"a":1,"x":1}']),
    (
        {
            "allOf": [{"type": "object", "properties": {"a": {"const": 1}}}],
            "properties": {"b": {"const": 2}},
            "unevaluatedProperties": False,
        },
        ["{}", '{"a":1,"b":2}'],
        ['{"c":1}'],
    ),
    ({"type": "array", "prefixItems": [{"const": 1}], "unevaluatedItems": False}, ["[]", "[1]"], ["[1,2]"]),
    ({"type": "number", "exclusiveMinimum": 5, "maximum": 6}, ["5.1", "6"], ["5", "5.00000000000000000001"]),
    ({"type": "number", "exclusiveMaximum": 1, "minimum": 0}, ["0", "0.5"], ["1", "0.99999999999999999999"]),
]


@pytest.mark.parametrize(("schema", "good", "bad"), TABLE, ids=range(len(TABLE)))
def test_what_conditions_let_through(schema: dict[str, Any], good: list[str], bad: list[str]) -> None:
    for text in good:
        assert JUDGE(schema).is_valid(json.loads(text)), f"the table is wrong: {text}"
        assert accepts(schema, text), text
    for text in bad:
        assert not JUDGE(schema).is_valid(json.loads(text)), f"the table is wrong: {text}"
        assert not accepts(schema, text), text


def babble(place: LLMatcher, generator: np.random.Generator) -> str | None:
    """Returns a random text that the grammar lets through, None where it does not end in 300 signs."""
    weights = np.where(np.arange(256) < 128, 1.0, 0.0)
    weights[[ord(sign) for sign in '"]},:']] = 40.0
    weights[[ord(sign) for sign in "abcxyz0123456789"]] = 4.0
    signs: list[int] = []
    while len(signs) < 300:
        if place.is_accepting() and (place.is_stopped() or generator.random() < 0.5):
            return bytes(signs).decode()
        allowed = np.unpackbits(np.frombuffer(place.compute_bitmask(), dtype=np.uint8), bitorder="little")[:256] * weights
        assert allowed.sum(), f"nothing may follow {bytes(signs)!r}"
        signs.append(int(generator.choice(256, p=allowed / allowed.sum())))
        assert place.consume_token(signs[-1])
    return None


@pytest.mark.parametrize("schema", [row[0] for row in TABLE], ids=range(len(TABLE)))
def test_whatever_is_said_is_valid(schema: dict[str, Any]) -> None:
    begin, generator = matcher(schema), np.random.default_rng(1)
    texts = {babble(begin.deep_copy(), generator) for _ in range(12)} - {None}
    assert texts
    for text in texts:
        JUDGE(schema).validate(json.loads(text or ""))


@pytest.mark.parametrize("conditions", [{"if": either("c"), "then": {"required": ["a"]}}, {"anyOf": [either("c"), {}]}], ids=list)
def test_properties_keep_their_order_beside_conditions(conditions: dict[str, Any]) -> None:
    schema = closed("b", "c", **conditions)
    for whole in (schema, {"$defs": {"one": schema}, "$ref": "#/$defs/one"}):
        assert accepts(whole, '{"a":1,"b":1,"c":1}')
        assert not accepts(whole, '{"c":1,"a":1,"b":1}')


@pytest.mark.parametrize(("name", "fits"), [("a", False), ("b", True), ("\\u0061", False), ("\\u0062", False), ("\\n", True)], ids=str)
def test_a_listed_property_has_no_other_spelling(name: str, fits: bool) -> None:
    """A name in escapes would be a further property to the grammar, and the listed one to whoever reads it."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    assert accepts(schema, f'{{"a":1,"{name}":"x"}}') is fits


REFUSED: list[tuple[Any, str, str]] = [
    ({"type": "array", "uniqueItems": True}, ".uniqueItems", "list those in 'enum', or set 'maxItems'"),
    (tags(*map(str, range(30)), uniqueItems=True), ".uniqueItems", "set 'maxItems', or list fewer values"),
    ({"properties": {"a": {"not": {"pattern": "^a"}}}}, ".properties.a.not", "does not fit 'pattern' cannot be told; use const"),
    ({"if": {"multipleOf": 2}, "then": {"minimum": 3}}, ".if", "does not fit 'multipleOf'"),
    ({"not": {"const": {"a": 1}}}, ".not", "compare plain values"),
    ({"not": {"additionalProperties": False}}, ".not", "'additionalProperties' alone"),
    ({"not": {"enum": [1 << 60]}}, ".not", "compare smaller ones"),
    ({"not": {"enum": ["x" * 9000]}}, ".not", "compare shorter ones"),
    ({"$defs": {"n": {"properties": {"n": {"$ref": "#/$defs/n"}}}}, "not": {"$ref": "#/$defs/n"}}, ".not", "do not refer to it there"),
    ({"dependentRequired": {str(name): ["x"] for name in range(9)}}, ".dependentRequired", "require some of them"),
    ({"dependentRequired": {"a": "b"}}, ".dependentRequired", "lists of different names"),
    ({"contains": {}, "minContains": 17}, ".contains", "lower the counts"),
    ({"oneOf": [{"minimum": number} for number in range(9)]}, ".oneOf", "a constant tag"),
    ({"oneOf": [{"pattern": "a"}, {"pattern": "b"}]}, ".oneOf", "does not fit 'pattern'"),
    ({"propertyNames": {"pattern": "a", "maxLength": 2}}, ".propertyNames", "use one of those"),
    ({"anyOf": [{}], "unevaluatedProperties": False}, ".unevaluatedProperties", "'additionalProperties' to false in each"),
    ({"allOf": [{}], "unevaluatedItems": False}, ".unevaluatedItems", "set 'items' instead"),
    ({"minProperties": 2}, ".minProperties", "list the properties"),
    (closed(properties={str(name): True for name in range(30)}, minProperties=15), ".minProperties", "ways to choose"),
    ({"uniqueItems": True, "items": {"anyOf": [{"$ref": "#/items"}]}}, ".uniqueItems", "few fixed values"),
    ({"not": {"$ref": "#/minLength"}, "minLength": 3}, "", "'#/minLength' points to no schema"),
    ({"not": {"$ref": "#/enum/0"}, "enum": [{"minLength": "x"}]}, "", "points to no schema"),
    ({"not": {"$ref": "#/properties"}, "properties": {"minLength": {}}}, "", "points to no schema"),
    ({"uniqueItems": "yes"}, ".uniqueItems", "true or false"),
    ({"enum": ["\x01"]}, ".enum", "control characters"),
    ({"dependencies": {"a": ["b"]}}, ".dependencies", "use 'dependentRequired'"),
    ({"nullable": True}, ".nullable", "\"null\" to 'type'"),
    ({"items": {"$anchor": "a"}}, ".items.$anchor", "'\\$defs'"),
]


@pytest.mark.parametrize(("schema", "path", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_cannot_be_kept_is_refused_with_another_way(schema: Any, path: str, words: str) -> None:
    with pytest.raises(SchemaRefused, match=words) as refused:
        normalised(schema)
    assert refused.value.path == path


@pytest.mark.parametrize("keyword", ["uniqueItems", "oneOf", "unevaluatedProperties", "not"])
def test_references_that_branch_end(keyword: str) -> None:
    """Each definition refers to the next many times: what follows them all is looked at no more often than the bounds say."""
    levels = {f"d{at}": {"anyOf": [{"$ref": f"#/$defs/d{at + 1}"}] * 20} for at in range(24)}
    props = {
        f"o{at}": {"type": "object", "properties": {n: {"$ref": f"#/$defs/o{at + 1}"} for n in "abcdefgh"}, "required": [*"abcdefgh"]}
        for at in range(24)
    }
    alls = {f"a{at}": {"allOf": [{"$ref": f"#/$defs/a{at + 1}"}] * 8} for at in range(24)}
    defs = {"$defs": {**levels, **props, **alls, "d24": {"enum": [1]}, "o24": {"type": "object"}, "a24": {"properties": {"a": {}}}}}
    schema = {
        "uniqueItems": {"type": "array", "items": {"$ref": "#/$defs/d0"}, "uniqueItems": True},
        "oneOf": {"oneOf": [{"$ref": "#/$defs/o0"}, {"$ref": "#/$defs/o0"}]},
        "unevaluatedProperties": {"$ref": "#/$defs/a0", "unevaluatedProperties": False},
        "not": {"not": {"$ref": "#/$defs/d0"}},
    }[keyword]
    with suppress(SchemaRefused):
        normalised({**defs, **schema})


def test_conditions_inside_of_conditions_end() -> None:
    schema: dict[str, Any] = {"required": ["a"]}
    for _ in range(20):
        schema = {"if": schema, "then": schema, "else": {"required": ["b"]}}
    with pytest.raises(SchemaRefused, match=r"larger than|more than 5000|simplify"):
        normalised(schema)
    deep: dict[str, Any] = {"required": ["a"]}
    for _ in range(14):
        deep = {"if": deep, "then": {"required": ["b"]}, "else": {"required": ["c"]}}
    with pytest.raises(SchemaRefused, match="conditions are written out"):
        normalised({"not": deep})
