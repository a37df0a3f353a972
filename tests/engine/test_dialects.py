"""Dialects: told from templates, messages as templates take them, and grammars whose answers the dialect's own parser reads."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.models.answer import Content, Reasoning, ToolCallArguments, ToolCallStart
from modelyard_runtime.models.dialect import Dialect, detect, thinks_already, thought_already
from modelyard_runtime.models.tools.grammars import Wanted, answer_grammar
from modelyard_runtime.models.tools.listed import NotListed
from modelyard_runtime.sources.tiny import make_chat
from modelyard_runtime.structured.compiler import GrammarCompiler
from modelyard_runtime.structured.grammar import json_rule
from modelyard_runtime.structured.schema import normalised
from tokenizers import AddedToken
from transformers import AutoTokenizer

TEMPLATES = {
    "hermes": "{% if tools %}{{ tools }} <tool_call>{% endif %}",
    "qwen3": "{% if tools %}<tool_call>{% endif %}{% if enable_thinking %}<think></think>{% endif %}",
    "llama3": "{% if tools %}{{ tools }}{% endif %}<|python_tag|>",
    "mistral": "{{ tools }}[AVAILABLE_TOOLS][TOOL_CALLS]",
    "mistral-named": "{{ tools }}[TOOL_CALLS]{{ name }}[ARGS]",
    "harmony": "{{ tools }}<|channel|>analysis{{ message.thinking }}{{ reasoning_effort }}",
    "qwen3-coder": "{{ tools }}<tool_call>\n<function={{ name }}>\n<parameter={{ key }}>\n",
    "glm": "{{ tools }}<tool_call>{{ name }}\n<arg_key>{{ key }}</arg_key>\n<think></think>",
    "deepseek": "{{ tools }}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>\n```json",
    "deepseek-3.1": "{{ tools }}<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{{ name }}<｜tool▁sep｜>",
    "pythonic": "{{ tools }} in the format of [func_name1(params_name1=params_value1), func_name2(params)]",
    "json": "{{ tools }}{{ messages }}",
    "none": "{{ messages }}",
}
TOKENS = (
    *("<tool_call>", "</tool_call>", "<think>", "</think>", "<|python_tag|>", "[TOOL_CALLS]", "[ARGS]"),
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|python_start|>", "<|python_end|>"),
    *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
    *("<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>", "<｜tool▁calls▁end｜>"),
)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer to which the markers are text."""
    folder: Path = tmp_path_factory.mktemp("chat")
    make_chat(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A tokenizer that has tokens for the markers."""
    folder: Path = tmp_path_factory.mktemp("marked")
    make_chat(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in TOKENS], special_tokens=True)
    return tokenizer


def dialect(name: str, tokenizer: Any) -> Dialect:
    return detect(TEMPLATES[name], tokenizer, tools="auto", reasoning="auto")


@pytest.mark.parametrize(
    ("name", "tools", "reasoning", "takes_tools"),
    [
        ("hermes", "hermes", "none", True),
        ("qwen3", "hermes", "think", True),
        ("llama3", "llama3", "none", True),
        ("mistral", "mistral", "none", True),
        ("harmony", "harmony", "harmony", True),
        ("qwen3-coder", "qwen3_coder", "none", True),
        ("glm", "glm", "think", True),
        ("deepseek", "deepseek", "none", True),
        ("deepseek-3.1", "deepseek", "none", True),
        ("pythonic", "pythonic", "none", True),
        ("json", "json", "none", True),
        ("none", "json", "none", False),
    ],
)
def test_a_template_shows_its_dialect(plain: Any, name: str, tools: str, reasoning: str, takes_tools: bool) -> None:
    found = dialect(name, plain)
    assert (found.tools, found.reasoning, found.takes_tools) == (tools, reasoning, takes_tools)


def test_settings_win_over_the_template(plain: Any) -> None:
    found = detect(TEMPLATES["hermes"], plain, tools="mistral", reasoning="think")
    assert (found.tools, found.reasoning) == ("mistral", "think")


def test_what_of_a_markers_tokens_a_parser_must_see(marked: Any) -> None:
    found = dialect("qwen3", marked)
    names = {marked.convert_ids_to_tokens(token) for token in found.visible(tools=True)}
    assert names == {"<tool_call>", "</tool_call>", "<think>", "</think>"}
    assert {marked.convert_ids_to_tokens(token) for token in found.visible(tools=False)} == {"<think>", "</think>"}


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "", "tool_calls": [CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": "c1", "content": "fine"},
]
TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}


def test_arguments_are_objects_unless_the_template_joins_text(plain: Any) -> None:
    assert dialect("qwen3", plain).rendered(HISTORY, [TOOL])[2]["tool_calls"][0]["function"]["arguments"] == {"a": 1}
    joining = detect("{{ tools }}{{ 'x' + tool['function']['arguments'] + 'y' }}", plain, tools="auto", reasoning="auto")
    assert joining.rendered(HISTORY, [TOOL])[2]["tool_calls"][0]["function"]["arguments"] == '{"a": 1}'
    cut = [{**HISTORY[2], "tool_calls": [{**CALL, "function": {"name": "f", "arguments": '{"a"'}}]}]
    assert dialect("qwen3", plain).rendered(cut, [TOOL])[0]["tool_calls"][0]["function"]["arguments"] == '{"a"'


def test_reasoning_goes_back_by_the_name_that_the_template_knows(plain: Any) -> None:
    assert dialect("qwen3", plain).rendered(HISTORY, [])[2]["reasoning_content"] == "Hm."
    assert dialect("harmony", plain).rendered(HISTORY, [])[2]["thinking"] == "Hm."
    assert "reasoning_content" not in dialect("hermes", plain).rendered(HISTORY, [])[2]


def test_a_template_without_tools_is_told_in_words(plain: Any) -> None:
    system, _, call, result = dialect("none", plain).rendered(HISTORY, [TOOL])
    assert system["content"].startswith("Be brief.")
    assert '"name": "f"' in system["content"]
    assert json.loads(call["content"]) == {"name": "f", "arguments": {"a": 1}}
    assert result == {"role": "user", "content": "Result of the call c1:\nfine"}
    assert dialect("none", plain).rendered(HISTORY[1:2], [TOOL])[0]["role"] == "system"
    assert dialect("none", plain).rendered(HISTORY[:2], []) == HISTORY[:2]


def test_effort_sets_what_the_template_knows(plain: Any) -> None:
    assert dialect("qwen3", plain).effort("none") == {"enable_thinking": False}
    assert dialect("qwen3", plain).effort("high") == {"enable_thinking": True}
    assert dialect("harmony", plain).effort("minimal") == {"reasoning_effort": "low", "thinking": True}
    assert dialect("hermes", plain).effort("none") == {}
    with pytest.raises(InvalidRequest, match="does not reason"):
        dialect("hermes", plain).effort("low")


def test_prompts_open_and_close_the_reasoning() -> None:
    assert thinks_already("<|im_start|>assistant\n<think>\n")
    assert not thinks_already("<|im_start|>assistant\n")
    assert thought_already("<think>\n\n</think>\n\n")


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
GRAMMARS = [name for name in TEMPLATES if name != "none"]


@pytest.fixture(params=["plain", "marked"])
async def compiler(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Any, GrammarCompiler]]:
    tokenizer = request.getfixturevalue(request.param)
    made = GrammarCompiler(tokenizer, len(tokenizer), [2], seconds=10.0)
    yield tokenizer, made
    made.close()


async def babble(compiler: tuple[Any, GrammarCompiler], rules: str, seed: int) -> str:
    """Returns a random text of a grammar; what ends something is likelier than what goes on."""
    tokenizer, made = compiler
    matcher = (await made.compile(rules)).prototype.deep_copy()
    generator = np.random.default_rng(seed)
    weights = np.ones(len(tokenizer))
    weights[[tokenizer.convert_tokens_to_ids(sign) for sign in ('"', "}", "]")]] = 300.0
    weights[[token.content.startswith(("<", "[")) and index for index, token in tokenizer.added_tokens_decoder.items()]] = 300.0
    tokens: list[int] = []
    while not matcher.is_stopped() and len(tokens) < 400:
        allowed = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")[: len(tokenizer)]
        chances = allowed * weights
        token = int(generator.choice(len(tokenizer), p=chances / chances.sum()))
        if token == 2:
            break
        tokens.append(token)
        assert matcher.consume_token(token), matcher.get_error()
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


@pytest.mark.parametrize("name", GRAMMARS)
async def test_forced_calls_are_what_the_dialects_parser_reads(compiler: tuple[Any, GrammarCompiler], name: str) -> None:
    found = dialect(name, compiler[0])
    for seed in range(3):
        wanted = Wanted(
            {"f": SCHEMA, "g": {"type": "object", "properties": {}, "additionalProperties": False}}, forced=True, parallel=False
        )
        text = await babble(compiler, answer_grammar(found, wanted, thinks=False, thought=True), seed)
        parser = found.parser({"f": SCHEMA, "g": {}}, thinks=False)
        parts = parser.push(text) + parser.finish()
        assert [part.name for part in parts if isinstance(part, ToolCallStart)] in (["f"], ["g"]), text
        assert json.loads("".join(part.text for part in parts if isinstance(part, ToolCallArguments))) in ({"a": 1}, {"a": 2}, {})
        assert not any(isinstance(part, Content) for part in parts), text


MIXED = {
    "type": "object",
    "$defs": {"level": {"enum": [1, 2, None]}},
    "properties": {
        "city": {"type": "string", "enum": ["Paris", "Rome"]},
        "note": {"type": "string", "maxLength": 4},
        "day": {"type": "string", "pattern": "^[a-c]{2}$"},
        "deep": {"type": "object", "properties": {"x": {"$ref": "#/$defs/level"}}, "required": ["x"], "additionalProperties": False},
        "on": {"type": "boolean"},
        "any": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 9}, {"type": "string", "maxLength": 2}]},
    },
    "required": ["note", "deep", "any"],
    "additionalProperties": False,
}


@pytest.mark.parametrize("name", ["qwen3-coder", "glm", "pythonic", "hermes"])
async def test_arguments_of_all_types_are_read_as_their_schema_says(compiler: tuple[Any, GrammarCompiler], name: str) -> None:
    found = dialect(name, compiler[0])
    wanted = Wanted({"f": normalised(MIXED)}, forced=True, parallel=False)
    seen: set[str] = set()
    for seed in range(6):
        text = await babble(compiler, answer_grammar(found, wanted, thinks=False, thought=True), seed)
        parser = found.parser({"f": MIXED}, thinks=False)
        parts = [part for sign in text for part in parser.push(sign)] + parser.finish()
        arguments = json.loads("".join(part.text for part in parts if isinstance(part, ToolCallArguments)))
        jsonschema.validate(arguments, MIXED)
        assert not any(isinstance(part, Content) for part in parts), text
        seen |= arguments.keys()
    assert seen > {"note", "deep", "any"}


@pytest.mark.parametrize("name", ["qwen3-coder", "pythonic"])
def test_what_arguments_one_by_one_cannot_keep_is_refused(plain: Any, name: str) -> None:
    schema = normalised({**MIXED, "dependentRequired": {"on": ["day"]}})
    with pytest.raises(NotListed, match="leave allOf out"):
        answer_grammar(dialect(name, plain), Wanted({"f": schema}, forced=True), thinks=False, thought=True)


@pytest.mark.parametrize("name", GRAMMARS)
async def test_every_combination_compiles(compiler: tuple[Any, GrammarCompiler], name: str) -> None:
    found = dialect(name, compiler[0])
    for forced, parallel, answer, thinks in [
        (True, True, None, False),
        (False, True, None, False),
        (False, False, None, True),
        (False, True, json_rule(SCHEMA), True),
    ]:
        await compiler[1].compile(answer_grammar(found, Wanted({"f": SCHEMA}, forced, parallel, answer), thinks=thinks, thought=False))


async def test_an_answer_after_reasoning_keeps_to_its_schema(marked: Any) -> None:
    made = GrammarCompiler(marked, len(marked), [2], seconds=10.0)
    for name, thinks in (("qwen3", True), ("qwen3", False), ("harmony", False)):
        found = dialect(name, marked)
        text = await babble((marked, made), answer_grammar(found, Wanted(answer=json_rule(SCHEMA)), thinks=thinks, thought=False), 1)
        parser = found.parser({}, thinks=thinks)
        parts = parser.push(text) + parser.finish()
        assert json.loads("".join(part.text for part in parts if isinstance(part, Content))) in ({"a": 1}, {"a": 2}), text
        assert all(isinstance(part, Content | Reasoning) for part in parts)
    made.close()
