"""Grammars of schemas: what is refused and where, what the vocabulary may say, and bounds on hostile input."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard.api.errors import Unavailable
from modelyard_runtime.sources.tiny import make_chat
from modelyard_runtime.structured.compiler import GrammarCompiler, GrammarRefused
from modelyard_runtime.structured.grammar import choice, grammar, json_rule, pattern
from modelyard_runtime.structured.matcher import GrammarFailed
from modelyard_runtime.structured.schema import SchemaRefused, normalised
from transformers import AutoTokenizer

from .children import stopping

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}

#: Takes hours to compile.
HOSTILE = {"allOf": [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(1, 40)]}


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder: Path = tmp_path_factory.mktemp("chat")
    make_chat(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture
async def compiler(tokenizer: Any) -> AsyncIterator[GrammarCompiler]:
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [2], seconds=3.0)
    yield compiler
    compiler.close()


async def accepts(compiler: GrammarCompiler, tokenizer: Any, rules: str, text: str) -> bool:
    """Whether a grammar lets a text through token by token, and lets it end there."""
    matcher = (await compiler.compile(rules)).matcher()
    row = torch.zeros(-(-len(tokenizer) // 32), dtype=torch.int32)

    def allowed(token: int) -> bool:
        matcher.fill(row)
        return bool(row[token // 32] >> (token % 32) & 1)

    for token in tokenizer(text, add_special_tokens=False)["input_ids"]:
        if matcher.terminated or not allowed(token):
            return False
        matcher.accept(token)
    return matcher.terminated or allowed(tokenizer.eos_token_id)


@pytest.mark.parametrize(
    ("schema", "text", "fits"),
    [
        (PERSON, '{"name": "Ada", "age": 36}', True),
        (PERSON, '{"name":"Ada","age":36}', True),
        (PERSON, '{\n  "name": "Ada",\n  "age": 36\n}', True),
        (PERSON, '{"name":  "Ada", "age": 36}', False),
        (PERSON, '{"name": "Ada"}', False),
        (PERSON, '{"name": "Ada", "age": 151}', False),
        (PERSON, '{"name": "Augusta Ada", "age": 36}', False),
        (PERSON, '{"name": "Ada", "age": 36, "x": 1}', False),
        (PERSON, ' {"name": "Ada", "age": 36}', False),
        ({"type": "object"}, '{"a": [1, {"b": null}], "c": "é\\n"}', True),
        ({"type": "object"}, "[]", False),
        ({"enum": ["red", 5, None]}, "null", True),
        ({"enum": ["red", 5, None]}, '"blue"', False),
        ({"type": "string", "format": "date"}, '"2026-11-21"', True),
        ({"type": "string", "format": "date"}, '"2026-13-21"', False),
        ({"type": "string", "format": "date"}, '"2026-02-29"', False),
        ({"type": "string", "format": "date"}, '"2028-02-29"', True),
        ({"type": "string", "format": "date", "pattern": "^2"}, '"1999-02-01"', False),
        ({"type": "string", "format": "time"}, '"23:59:60Z"', False),
        ({"type": "string", "format": "date-time"}, '"2026-11-21T08:00:00.5+01:00"', True),
        ({"$defs": {"t": {"type": "array", "items": {"$ref": "#/$defs/t"}}}, "$ref": "#/$defs/t"}, "[[], [[]]]", True),
        ({"properties": {"a": {"type": "integer"}}}, '{"a": 1}', True),
        ({"properties": {"a": {"type": "integer"}}}, "5", False),
    ],
)
async def test_what_a_schema_lets_through(compiler: GrammarCompiler, tokenizer: Any, schema: Any, text: str, fits: bool) -> None:
    assert await accepts(compiler, tokenizer, grammar(json_rule(normalised(schema))), text) is fits


async def test_alternatives_with_a_tag_are_one_of(compiler: GrammarCompiler, tokenizer: Any) -> None:
    def animal(kind: str, field: str) -> dict[str, Any]:
        return {"type": "object", "properties": {"kind": {"const": kind}, field: {"type": "integer"}}, "required": ["kind", field]}

    schema = {
        "$defs": {"cat": animal("cat", "lives"), "dog": animal("dog", "years")},
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
    }
    rules = grammar(json_rule(normalised(schema)))
    assert await accepts(compiler, tokenizer, rules, '{"kind": "dog", "years": 3}')
    assert not await accepts(compiler, tokenizer, rules, '{"kind": "dog", "lives": 3}')


async def test_regular_expressions_and_choices(compiler: GrammarCompiler, tokenizer: Any) -> None:
    assert await accepts(compiler, tokenizer, grammar(pattern(r"\d{3}/[ab]+")), "123/abba")
    assert not await accepts(compiler, tokenizer, grammar(pattern(r"\d{3}/[ab]+")), "12/abba")
    assert await accepts(compiler, tokenizer, grammar(choice(['say "yes"', "no"])), 'say "yes"')
    assert not await accepts(compiler, tokenizer, grammar(choice(['say "yes"', "no"])), "maybe")


async def test_matchers_of_one_grammar_do_not_disturb_each_other(compiler: GrammarCompiler, tokenizer: Any) -> None:
    rules = grammar(choice(["hello", "help"]))
    compiled = await compiler.compile(rules)
    assert await compiler.compile(rules) is compiled
    first, second = compiled.matcher(), compiled.matcher()
    for token in tokenizer("hello", add_special_tokens=False)["input_ids"]:
        first.accept(token)
    assert first.terminated
    assert not second.terminated


async def test_a_token_that_does_not_fit_fails_the_matcher(compiler: GrammarCompiler, tokenizer: Any) -> None:
    matcher = (await compiler.compile(grammar(choice(["hello"])))).matcher()
    with pytest.raises(GrammarFailed):
        matcher.accept(tokenizer("x", add_special_tokens=False)["input_ids"][0])


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


def deep_list(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


REFUSED: list[tuple[Any, str, str]] = [
    (None, "", "expected a JSON schema"),
    ([], "", "expected a JSON schema"),
    ({"type": "banana"}, ".type", "one of, or a list of"),
    ({"type": []}, ".type", "one of, or a list of"),
    ({"type": "array", "uniqueItems": True}, ".uniqueItems", "'uniqueItems' is not supported"),
    ({"properties": {"a": {"nullable": True}}}, ".properties.a.nullable", "'nullable' is not supported"),
    ({"items": {"maximun": 3}}, ".items.maximun", "'maximun' is not supported"),
    ({"type": "array", "items": [{}]}, ".items", "an object, true or false"),
    ({"properties": []}, ".properties", "an object of schemas"),
    ({"properties": {"a": 5}}, ".properties.a", "expected a JSON schema"),
    ({"anyOf": []}, ".anyOf", "at least one schema"),
    ({"anyOf": [{}, {"enum": []}]}, ".anyOf[1].enum", "at least one value"),
    ({"required": ["a", "a"]}, ".required", "different names"),
    ({"required": "a"}, ".required", "different names"),
    ({"minimum": "1"}, ".minimum", "a number"),
    ({"minimum": True}, ".minimum", "a number"),
    ({"multipleOf": 0}, ".multipleOf", "above 0"),
    ({"minLength": -1}, ".minLength", "an integer from 0"),
    ({"maxItems": 10**9}, ".maxItems", "an integer from 0 to 10000"),
    ({"format": "banana"}, ".format", "date-time"),
    ({"pattern": "a" * 2000}, ".pattern", "at most 1000 characters"),
    ({"$ref": "https://example.com/s.json"}, ".$ref", "inside the schema"),
    ({"$ref": "#/$defs/none"}, ".$ref", "points to nothing"),
    ({"minProperties": 3, "additionalProperties": True}, ".minProperties", "not supported"),
    ({"enum": list(range(6000))}, ".enum", "more than 5000 values"),
    ({"enum": [deep_list(50)]}, ".enum", "nested more than 32"),
    (nested(40), ".properties.a" * 33, "nested more than 32"),
    ({"description": "x" * (300 << 10)}, "", "larger than 256 KiB"),
    ({"anyOf": [{}] * 6000}, "", "more than 5000 schemas"),
    ({"anyOf": [{"$ref": "#"}] * 1500}, ".anyOf[1000].$ref", "more than 1000 references"),
]


@pytest.mark.parametrize(("schema", "path", "words"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_refused_says_where(schema: Any, path: str, words: str) -> None:
    with pytest.raises(SchemaRefused, match=words.replace("'", ".")) as refused:
        normalised(schema)
    assert refused.value.path == path


def test_a_lenient_reading_leaves_out_what_cannot_be_kept() -> None:
    schema = {"type": "array", "uniqueItems": True, "items": {"type": "string", "format": "password", "title": "T"}}
    assert normalised(schema, lenient=True) == {"type": "array", "items": {"type": "string"}}


def test_options_of_the_library_are_not_the_clients() -> None:
    assert normalised({"type": "object", "x-guidance": {"lenient": True}, "properties": {"x-guidance": {"type": "string"}}}) == {
        "type": "object",
        "properties": {"x-guidance": {"type": "string"}},
    }


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"$ref": "#"}, "nothing fits"),
        ({"type": "integer", "minimum": 5, "maximum": 4}, "greater than"),
        ({"type": "string", "pattern": "("}, "unclosed group"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "pattern": "^a", "format": "date"}, "Unsatisfiable"),
        ({"type": "integer", "minimum": 1, "not": {"minimum": 0}}, "^Unsatisfiable schema: minimum"),
    ],
)
async def test_what_does_not_compile_says_why(compiler: GrammarCompiler, schema: Any, words: str) -> None:
    for _ in range(2):  # the second time from the cache
        with pytest.raises(GrammarRefused, match=words):
            await compiler.compile(grammar(json_rule(normalised(schema))))


async def test_a_refusal_does_not_show_the_grammar(compiler: GrammarCompiler) -> None:
    with pytest.raises(GrammarRefused) as refused:
        await compiler.compile(f"%llguidance {{}}\n\nstart: word\n\n\nword: {json_rule({'type': 'number', 'multipleOf': 1e300})}\n")
    assert "too many digits" in str(refused.value)
    assert "start" not in str(refused.value)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits longer for time on the processor, which takes much longer on a busy machine."""
    monkeypatch.setattr("modelyard_runtime.child._PATIENCE", 200)


@pytest.mark.usefixtures("patient")
async def test_hostile_grammars_end_in_time_and_harm_no_one(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [2], seconds=0.3)
    try:
        with pytest.raises(GrammarRefused, match="make it simpler"):
            await compiler.compile(grammar(json_rule(normalised(HOSTILE))))
        assert await accepts(compiler, tokenizer, grammar(json_rule(PERSON)), json.dumps({"name": "Ada", "age": 36}))
    finally:
        compiler.close()


def process_of(compiler: GrammarCompiler) -> int:
    assert compiler._trial is not None
    assert compiler._trial.child.process is not None
    return compiler._trial.child.process.pid


@pytest.mark.usefixtures("patient")
async def test_what_took_too_long_is_refused_at_once_the_next_time(tokenizer: Any) -> None:
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [2], seconds=0.3)
    rules = grammar(json_rule(normalised(HOSTILE)))
    try:
        with pytest.raises(GrammarRefused, match=r"longer than 0\.3 s"):
            await compiler.compile(rules)
    finally:
        compiler.close()
    with pytest.raises(GrammarRefused, match=r"longer than 0\.3 s"):  # by a compiler that can compile nothing any more
        await compiler.compile(rules)
    with pytest.raises(Unavailable, match="being unloaded"):
        await compiler.compile(grammar(choice(["yes"])))


async def test_refusals_are_bounded_and_take_nobodys_grammar_away(compiler: GrammarCompiler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler._refused, "_size", 3)
    good = await compiler.compile(grammar(choice(["yes"])))
    for index in range(5):
        with pytest.raises(GrammarRefused):
            await compiler.compile(grammar(pattern(f"{index}(")))
    assert len(compiler._refused._entries) == 3
    assert await compiler.compile(grammar(choice(["yes"]))) is good


async def test_a_process_that_is_ended_is_no_fault_of_the_grammar(compiler: GrammarCompiler) -> None:
    await compiler.compile(grammar(json_rule(normalised(PERSON))))
    os.kill(process_of(compiler), signal.SIGSTOP)
    asked = asyncio.create_task(compiler.compile(grammar(json_rule(normalised({"type": "integer"})))))
    await asyncio.sleep(0)
    os.kill(process_of(compiler), signal.SIGKILL)
    await asked


@pytest.mark.parametrize("size", [1, 300], ids=["answer", "question"])
async def test_a_process_that_hangs_gives_way_to_another(tokenizer: Any, size: int) -> None:
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [2], seconds=0.5)
    rules = grammar(json_rule(normalised({"enum": [f"{index:0500}" for index in range(size)]})))
    try:
        await compiler.compile(grammar(json_rule(normalised(PERSON))))
        os.kill(process_of(compiler), signal.SIGSTOP)
        await compiler.compile(rules)
    finally:
        compiler.close()


async def test_no_grammar_is_blamed_where_no_process_answers(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = GrammarCompiler(tokenizer, len(tokenizer), [2], seconds=0.2)
    rules = grammar(json_rule(normalised(PERSON)))
    try:
        await compiler.compile(grammar(choice(["yes"])))
        assert compiler._trial is not None
        monkeypatch.setattr("modelyard_runtime.child._START_SECONDS", 0.5)
        with stopping(compiler._trial.child), pytest.raises(Unavailable, match="does not answer") as failure:
            await compiler.compile(rules)
        assert failure.value.retry_after
        monkeypatch.undo()
        assert await compiler.compile(rules)
    finally:
        compiler.close()


async def test_a_real_model_answers_in_a_schema(kit: Any, smollm2: Path) -> None:
    model = kit.load(smollm2)
    question = [{"role": "user", "content": "Extract the name and the age: Ada Lovelace is 36 years old."}]
    text = model.tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    schema = {**PERSON, "properties": {**PERSON["properties"], "name": {"type": "string", "maxLength": 30}}}
    compiler = GrammarCompiler(model.tokenizer, model.vocabulary_size, model.eos_token_ids, seconds=10.0)
    compiled = await compiler.compile(grammar(json_rule(normalised(schema))))
    async with kit.engine(model) as engine:
        events = await kit.collect(engine, model.tokenizer(text)["input_ids"], max_tokens=60, grammar=compiled, ignore_eos=False)
    compiler.close()
    assert events[-1].finish_reason == "stop"
    answer = model.tokenizer.decode([event.token_id for event in events if not event.ends_text])
    assert json.loads(answer)["name"] == "Ada Lovelace"


async def test_guesses_from_the_text_keep_to_the_grammar(kit: Any) -> None:
    model = kit.load("llama")
    compiler = GrammarCompiler(model.tokenizer, model.vocabulary_size, model.eos_token_ids, seconds=10.0)
    compiled = await compiler.compile(grammar(json_rule(normalised(PERSON))))
    prompt = model.tokenizer('{"name": "Ada", "age": 36} {"name": "Ada", "age": 36}')["input_ids"]
    answers = []
    for guesses in (0, 4):
        async with kit.engine(model, speculative_tokens=guesses) as engine:
            answers.append(await kit.tokens(engine, prompt, max_tokens=120, grammar=compiled, ignore_eos=False))
    compiler.close()
    assert answers[0] == answers[1]
    assert json.loads(model.tokenizer.decode(answers[0], skip_special_tokens=True)).keys() == {"name", "age"}
