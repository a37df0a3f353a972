"""Parsers of calls and reasoning: tables of texts, each cut at every place, and hostile ones that must not take long."""

import gc
import itertools
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from modelyard_runtime.models.answer import AnswerParser, Content, OneCall, Part, Reasoning, ToolCallArguments, ToolCallStart
from modelyard_runtime.models.reasoning import ThinkParser
from modelyard_runtime.models.tools.bare import LLAMA_MARKER, BareParser
from modelyard_runtime.models.tools.deepseek import DeepSeekParser
from modelyard_runtime.models.tools.harmony import HarmonyParser
from modelyard_runtime.models.tools.hermes import HermesParser
from modelyard_runtime.models.tools.mistral import MistralParser
from modelyard_runtime.models.tools.output import Output, call_id, short_call_id
from modelyard_runtime.models.tools.pythonic import PythonicParser
from modelyard_runtime.models.tools.tagged import GLM, QWEN, TaggedParser

Make = Callable[[], AnswerParser]
Answer = tuple[str, str, list[tuple[str, str]]]


def output() -> Output:
    numbers = itertools.count()
    return Output(lambda: f"call-{next(numbers)}")


def hermes() -> AnswerParser:
    return HermesParser(output())


def llama() -> AnswerParser:
    return BareParser({"f", "g"}, LLAMA_MARKER, output())


def generic() -> AnswerParser:
    return BareParser({"f", "g"}, None, output())


def mistral() -> AnswerParser:
    return MistralParser(output())


def harmony() -> AnswerParser:
    return HarmonyParser(output())


TOOLS = {
    "f": {
        "type": "object",
        "properties": {
            "s": {"type": "string"},
            "n": {"type": "integer"},
            "b": {"type": ["boolean", "null"]},
            "o": {"$ref": "#/$defs/object"},
            "u": {"anyOf": [{"type": "number"}, {"type": "string"}]},
        },
        "$defs": {"object": {"type": "object"}},
    },
    "g": {},
}


def qwen() -> AnswerParser:
    return TaggedParser(QWEN, TOOLS, output())


def glm() -> AnswerParser:
    return TaggedParser(GLM, TOOLS, output())


def pythonic() -> AnswerParser:
    return PythonicParser(TOOLS, output())


def deepseek() -> AnswerParser:
    return DeepSeekParser(output())


def thinking() -> AnswerParser:
    return ThinkParser(hermes(), opened=False)


def thinking_already() -> AnswerParser:
    return ThinkParser(hermes(), opened=True)


def joined(parts: list[Part]) -> Answer:
    """Puts parts together: content, reasoning, and the calls as (name, arguments)."""
    calls: list[tuple[str, str]] = []
    for part in parts:
        match part:
            case ToolCallStart(index, id_, name):
                assert (index, id_) == (len(calls), f"call-{index}")
                calls.append((name, ""))
            case ToolCallArguments(index, text):
                assert index == len(calls) - 1, "a call's arguments follow its start"
                calls[index] = (calls[index][0], calls[index][1] + text)
            case _:
                pass
    content = "".join(part.text for part in parts if isinstance(part, Content))
    return content, "".join(part.text for part in parts if isinstance(part, Reasoning)), calls


ARGUMENTS = '{"a": "}{\\"é", "b": [1, {}]}'
CALL = f'{{"name": "f", "arguments": {ARGUMENTS}}}'
SHORT = '{"name": "f", "parameters": {"a": 1}}'
ANALYSIS = "<|channel|>analysis<|message|>Hm.<|end|>"
F, FA = ("f", ARGUMENTS), ("f", '{"a": 1}')

BLOCK = '<tool_call>\n<function=f>\n<parameter=s>\nParis "é"\n\n</parameter>\n<parameter=n>\n3\n</parameter>\n</function>\n</tool_call>'
PAIRS = "<tool_call>f\n<arg_key>s</arg_key>\n<arg_value>a\nb </arg_value>\n<arg_key>n</arg_key><arg_value>3</arg_value>\n</tool_call>"
DEEP = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{"a": 1}\n```<｜tool▁call▁end｜>'

ROWS: list[tuple[Make, str, Answer]] = [
    (hermes, "", ("", "", [])),
    (hermes, " hello\n", (" hello\n", "", [])),
    (hermes, f"Let me.\n\n<tool_call>\n{CALL}\n</tool_call>", ("Let me.", "", [F])),
    (hermes, f"<tool_call>{CALL}</tool_call>\n<tool_call>\n{CALL}\n</tool_call>\nDone.\n", ("Done.\n", "", [F, F])),
    (hermes, f"<tool_call>{CALL}\n{CALL}</tool_call>", ("", "", [F, F])),
    (hermes, f"<tool_call>{CALL}", ("", "", [F])),
    (hermes, "<tool_call>", ("<tool_call>", "", [])),
    (hermes, "a<tool_call>x</tool_call>b", ("a<tool_call>x</tool_call>b", "", [])),
    (hermes, '<tool_call>\n{"name": "f", "arguments": {"a": 1', ("", "", [("f", '{"a": 1')])),
    (hermes, '<tool_call>\n{"name": "f", "argum', ('<tool_call>\n{"name": "f", "argum', "", [])),
    (hermes, '<tool_call>{"arguments": {"x": 1}, "name": "g"}</tool_call>', ("", "", [("g", '{"x": 1}')])),
    (
        hermes,
        '<tool_call>{"type": "function", "function": {"name": "g", "arguments": {"x": 1}}}</tool_call>',
        ("", "", [("g", '{"x": 1}')]),
    ),
    (hermes, '<tool_call>{"name": "g", "arguments": "{\\"x\\": 1}"}</tool_call>', ("", "", [("g", '{"x": 1}')])),
    (hermes, '<tool_call>{"name": "g"}</tool_call>', ("", "", [("g", "{}")])),
    (hermes, '<tool_call>{"name": "g", "arguments": {}, "id": "7"}</tool_call>', ("", "", [("g", "{}")])),
    (hermes, '<tool_call>{"name": "a", "arguments": {"x": 1</tool_call> tail', ("tail", "", [("a", '{"x": 1')])),
    (hermes, "<tool_call>{'name': 'a'}</tool_call>", ("<tool_call>{'name': 'a'}</tool_call>", "", [])),
    (
        hermes,
        '<tool_call>{"name": "no name", "arguments": {}}</tool_call>',
        ('<tool_call>{"name": "no name", "arguments": {}}</tool_call>', "", []),
    ),
    (hermes, f"<tool_call><tool_call>{CALL}", ("<tool_call>", "", [F])),
    (hermes, '<tool_call>{"name": "' + "n" * 600 + '"}</tool_call>', ('<tool_call>{"name": "' + "n" * 600 + '"}</tool_call>', "", [])),
    (
        hermes,
        "<tool_call>" + '{"note": "' + "n" * 600 + '", "name": "g", "arguments": {"x": 1}}</tool_call>',
        ("", "", [("g", '{"x": 1}')]),
    ),
    (llama, SHORT, ("", "", [FA])),
    (llama, f"<|python_tag|>{SHORT}", ("", "", [FA])),
    (llama, f"\n {SHORT}; {SHORT}", ("", "", [FA, FA])),
    (llama, f"Hello {SHORT}", (f"Hello {SHORT}", "", [])),
    (llama, f"x <|python_tag|>{SHORT}", ("x", "", [FA])),
    (llama, '{"name": "Paris", "population": 3}', ('{"name": "Paris", "population": 3}', "", [])),
    (llama, '{"type": "function", "name": "g", "parameters": {}}', ("", "", [("g", "{}")])),
    (llama, "<|python_tag|>brave.call(x)", ("<|python_tag|>brave.call(x)", "", [])),
    (llama, "<|python", ("<|python", "", [])),
    (generic, f"```json\n[{SHORT}, {SHORT}]\n```\nok", ("ok", "", [FA, FA])),
    (generic, f"[{SHORT}", ("", "", [FA])),
    (generic, f"{SHORT}\n`ok`", ("`ok`", "", [FA])),
    (generic, "[1, 2]", ("[1, 2]", "", [])),
    (generic, '{"a": [', ('{"a": [', "", [])),
    (generic, "```python\nx\n```", ("```python\nx\n```", "", [])),
    (mistral, f"[TOOL_CALLS][{CALL}]", ("", "", [F])),
    (mistral, f"Sure. [TOOL_CALLS] [{CALL}, {CALL}]", ("Sure.", "", [F, F])),
    (mistral, '[TOOL_CALLS]f[ARGS]{"a": 1}', ("", "", [FA])),
    (mistral, '[TOOL_CALLS]f{"a": 1}[TOOL_CALLS]g[CALL_ID]abc123[ARGS]{"b": {}}', ("", "", [FA, ("g", '{"b": {}}')])),
    (mistral, "x [TOOL_CALLS]", ("x [TOOL_CALLS]", "", [])),
    (mistral, "[TOOL_CALLS][]", ("[TOOL_CALLS][]", "", [])),
    (mistral, "[TOOL_CALLS]hello there", ("[TOOL_CALLS]hello there", "", [])),
    (mistral, "[TOOL_CALLS][TOOL_CALLS]f{}", ("[TOOL_CALLS]", "", [("f", "{}")])),
    (mistral, "[TOOL_CALLS][5]", ("[TOOL_CALLS][5]", "", [])),
    (mistral, '[TOOL_CALLS][{"name": "f"', ('[TOOL_CALLS][{"name": "f"', "", [])),
    (qwen, f"Well.\n\n{BLOCK}", ("Well.", "", [("f", '{"s": "Paris \\"é\\"\\n", "n": 3}')])),
    (qwen, f"{BLOCK}\n{BLOCK}\nDone", ("Done", "", [("f", '{"s": "Paris \\"é\\"\\n", "n": 3}')] * 2)),
    (qwen, BLOCK.removeprefix("<tool_call>\n"), ("", "", [("f", '{"s": "Paris \\"é\\"\\n", "n": 3}')])),
    (qwen, "<tool_call><function=g></function></tool_call>", ("", "", [("g", "{}")])),
    (qwen, "<tool_call><function=g><parameter=x>[1, 2]</parameter></function>", ("", "", [("g", '{"x": [1, 2]}')])),
    (qwen, "<tool_call><function=g><parameter=x>two</parameter></function>", ("", "", [("g", '{"x": "two"}')])),
    (qwen, "<tool_call><function=f><parameter=s>5</parameter></function>", ("", "", [("f", '{"s": "5"}')])),
    (qwen, "<tool_call><function=f><parameter=s></parameter></function>", ("", "", [("f", '{"s": ""}')])),
    (qwen, "<tool_call><function=f><parameter=b>\nTrue\n</parameter></function>", ("", "", [("f", '{"b": true}')])),
    (qwen, "<tool_call><function=f><parameter=b>\nNone\n</parameter></function>", ("", "", [("f", '{"b": null}')])),
    (qwen, '<tool_call><function=f><parameter=o>{"a": "<b>"}</parameter></function>', ("", "", [("f", '{"o": {"a": "<b>"}}')])),
    (qwen, "<tool_call><function=f><parameter=u>1.5</parameter></function>", ("", "", [("f", '{"u": 1.5}')])),
    (qwen, "<tool_call><function=f><parameter=u>NaN</parameter></function>", ("", "", [("f", '{"u": "NaN"}')])),
    (qwen, "<tool_call><function=f><parameter=n>many</parameter></function>", ("", "", [("f", '{"n": "many"}')])),
    (qwen, "<tool_call><function=f><parameter=s>Par", ("", "", [("f", '{"s": "Par')])),
    (qwen, "a <tool_call> b", ("a <tool_call> b", "", [])),
    (qwen, "a <function= b", ("a <function= b", "", [])),
    (qwen, "<tool_call><func", ("<tool_call><func", "", [])),
    (qwen, "<function=" + "n" * 300 + ">", ("<function=" + "n" * 300 + ">", "", [])),
    (glm, f"Well. {PAIRS}", ("Well.", "", [("f", '{"s": "a\\nb ", "n": 3}')])),
    (glm, f"{PAIRS}\n{PAIRS}", ("", "", [("f", '{"s": "a\\nb ", "n": 3}')] * 2)),
    (glm, "<tool_call>g</tool_call>ok", ("ok", "", [("g", "{}")])),
    (glm, "<tool_call>g h</tool_call>", ("<tool_call>g h</tool_call>", "", [])),
    (glm, "<tool_call>g", ("<tool_call>g", "", [])),
    (pythonic, '[f(s="a, (b", n=3), g()]', ("", "", [("f", '{"s": "a, (b", "n": 3}'), ("g", "{}")])),
    (pythonic, "<|python_start|>[f(b=True)]<|python_end|> Done", ("Done", "", [("f", '{"b": true}')])),
    (pythonic, "[f(b=null, o={'a': [1, (2,)]})]", ("", "", [("f", '{"b": null, "o": {"a": [1, [2]]}}')])),
    (pythonic, "[f(s='it\\'s', u=-1.5e3)]", ("", "", [("f", '{"s": "it\'s", "u": -1500.0}')])),
    (pythonic, "[f('x', 3)]", ("", "", [("f", '{"s": "x", "n": 3}')])),
    (pythonic, "[f(s=5, n=open('x'))]", ("", "", [("f", '{"s": "5", "n": "open(\'x\')"}')])),
    (pythonic, "[f(s='\\d\\ud83d', b=1e999)]", ("", "", [("f", '{"s": "\\\\d\ufffd", "b": "1e999"}')])),
    (pythonic, "[f(s='a', n", ("", "", [("f", '{"s": "a"')])),
    (pythonic, "[h(x=1)]", ("[h(x=1)]", "", [])),
    (pythonic, "[1, 2]", ("[1, 2]", "", [])),
    (pythonic, "Hello [f()]", ("Hello [f()]", "", [])),
    (pythonic, "[f", ("[f", "", [])),
    (pythonic, "<|python_start|>x = 1", ("<|python_start|>x = 1", "", [])),
    (deepseek, f"Sure.<｜tool▁calls▁begin｜>{DEEP}\n{DEEP}<｜tool▁calls▁end｜>", ("Sure.", "", [FA, FA])),
    (
        deepseek,
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{"a": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
        ("", "", [FA]),
    ),
    (deepseek, DEEP.removesuffix("\n```<｜tool▁call▁end｜>"), ("", "", [FA])),
    (deepseek, "<｜tool▁call▁begin｜>no", ("<｜tool▁call▁begin｜>no", "", [])),
    (harmony, "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Hi!", ("Hi!", "Hm.", [])),
    (
        harmony,
        f'{ANALYSIS}<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{{"a": 1}}',
        ("", "Hm.", [FA]),
    ),
    (harmony, "<|start|>assistant to=functions.g<|channel|>commentary<|message|>{}<|call|>", ("", "", [("g", "{}")])),
    (harmony, "plain", ("plain", "", [])),
    (harmony, "<|channel|>fin", ("<|channel|>fin", "", [])),
    (thinking, "<think>\nHm. <b>\n\n</think>\n\nHi", ("Hi", "Hm. <b>", [])),
    (thinking, f"<think>a</think><tool_call>{CALL}</tool_call>", ("", "a", [F])),
    (thinking, "Hi", ("Hi", "", [])),
    (thinking, "\n<thin", ("\n<thin", "", [])),
    (thinking, "<think>only", ("", "only", [])),
    (thinking, "<think></think>x", ("x", "", [])),
    (thinking_already, "Hm.\n</think>\n\nHi", ("Hi", "Hm.", [])),
    (thinking_already, "<think>\nHm.</think>Hi", ("Hi", "Hm.", [])),
    (thinking_already, "a </thin k> b</think> c", ("c", "a </thin k> b", [])),
]


@pytest.mark.parametrize(("make", "text", "answer"), ROWS, ids=[f"{row[0].__name__}-{number}" for number, row in enumerate(ROWS)])
def test_an_answer_is_the_same_however_it_is_cut(make: Make, text: str, answer: Answer) -> None:
    def read(*pieces: str) -> Answer:
        parser = make()
        return joined([part for piece in pieces for part in parser.push(piece)] + parser.finish())

    assert read(text) == answer
    assert read(*text) == answer
    for cut in range(len(text) + 1):
        assert read(text[:cut], text[cut:]) == answer, f"cut at {cut}"


@pytest.mark.parametrize(
    ("make", "call", "more"),
    [
        (hermes, f"Well. <tool_call>{CALL}", f"</tool_call>\n<tool_call>{CALL}</tool_call> More."),
        (llama, SHORT, f"; {SHORT}"),
        (generic, f"```json\n[{SHORT}", f", {SHORT}]```"),
        (mistral, f"[TOOL_CALLS][{CALL}", f", {CALL}]"),
        (qwen, "<tool_call><function=f><parameter=s>x</parameter></function>", BLOCK),
        (glm, PAIRS, PAIRS),
        (pythonic, "[f(s='a')", ", g()]"),
        (deepseek, DEEP.removesuffix("\n```<｜tool▁call▁end｜>"), f"\n```<｜tool▁call▁end｜>{DEEP}"),
        (mistral, '[TOOL_CALLS]f[ARGS]{"a": 1}', '[TOOL_CALLS]f[ARGS]{"a": 1}'),
        (harmony, '<|channel|>commentary to=functions.f<|message|>{"a": 1}<|call|>', "<|start|>assistant<|channel|>final<|message|>Hi"),
        (thinking, f"<think><tool_call>{CALL}</tool_call></think><tool_call>{CALL}", f"<tool_call>{CALL}"),
    ],
)
def test_where_the_first_call_ends(make: Make, call: str, more: str) -> None:
    parser = make()
    for sign in call:
        assert parser.complete == 0
        parser.push(sign)
    assert parser.complete == 1
    single = OneCall(make())
    content, _, calls = joined(single.push(call) + single.push(more) + single.finish())
    assert single.complete == 1
    assert len(calls) == 1
    assert content in ("", "Well.")


@pytest.mark.parametrize(
    "schema", [{}, {"properties": 5}, {"properties": {"s": 5}}, {"$ref": "#/a/b"}, {"properties": {"s": {"type": 5, "enum": 6}}}]
)
def test_a_tools_schema_may_be_anything_where_no_grammar_is_made_of_it(schema: dict[str, Any]) -> None:
    for parser, text in (
        (PythonicParser({"f": schema}, output()), "[f(s='x', n=1)]"),
        (PythonicParser({"f": schema}, output()), "[f('x')]"),
        (TaggedParser(GLM, {"f": schema}, output()), "<tool_call>f<arg_key>s</arg_key><arg_value>x</arg_value></tool_call>"),
    ):
        [(name, arguments)] = joined(parser.push(text) + parser.finish())[2]
        assert name == "f"
        assert "x" in json.loads(arguments).values()


def test_a_call_goes_out_as_it_comes() -> None:
    parser = hermes()
    assert parser.push('<tool_call>\n{"name": "f", "arguments": ') == []
    assert parser.push('{"a": ') == [ToolCallStart(0, "call-0", "f"), ToolCallArguments(0, '{"a": ')]
    assert parser.push("1") == [ToolCallArguments(0, "1")]
    assert parser.push("}}") == [ToolCallArguments(0, "}")]


def test_whether_it_is_thinking_is_known_at_any_time() -> None:
    parser = ThinkParser(hermes(), opened=False)
    assert not parser.thinking
    parser.push("<think>Hm")
    assert parser.thinking
    parser.push("</think>")
    assert not parser.thinking
    assert ThinkParser(hermes(), opened=True).thinking


def test_ids_look_as_their_families_want_them() -> None:
    assert len({call_id() for _ in range(100)}) == 100
    assert call_id().startswith("call_")
    assert all(len(short_call_id()) == 9 and short_call_id().isalnum() for _ in range(100))


HOSTILE: list[tuple[Make, str]] = [
    (hermes, "<tool_call>"),
    (hermes, '<tool_call>{"a": "' + "x" * 600 + '"}'),
    (hermes, '<tool_call>{"name": "a", "arguments": {"x": '),
    (hermes, " \n"),
    (hermes, '"\\'),
    (mistral, "[TOOL_CALLS]"),
    (mistral, "[TOOL_CALLS]["),
    (mistral, "[TOOL_CALLS]a{"),
    (llama, "<|python_tag|>"),
    (llama, "{"),
    (generic, '{"name": "f", "parameters": {}}'),
    (harmony, "<|channel|>"),
    (harmony, "<|channel|>a<|message|>"),
    (qwen, "<tool_call>"),
    (qwen, "<tool_call><function=f><parameter=s>\n"),
    (qwen, "<function="),
    (glm, "<tool_call>f"),
    (glm, "<tool_call>f<arg_key>"),
    (pythonic, "[f(s="),
    (pythonic, "<|python_start|>["),
    (pythonic, "[f(('"),
    (deepseek, "<｜tool▁call▁begin｜>"),
    (deepseek, "<｜tool▁call▁begin｜>f<｜tool▁sep｜>{"),
    (thinking_already, "</think"),
    (thinking, "<think>"),
]


@pytest.mark.parametrize(("make", "piece"), HOSTILE)
def test_hostile_text_takes_time_by_its_length(make: Make, piece: str) -> None:
    def seconds(size: int) -> float:
        parser, text = make(), piece * (size // len(piece))
        begun = time.process_time()
        for at in range(0, len(text), 97):
            parser.push(text[at : at + 97])
        parser.finish()
        whole = make()
        whole.push(text)
        whole.finish()
        return time.process_time() - begun

    def grows_as_it_should() -> bool:
        few, many = max(seconds(10_000), 0.002), seconds(100_000)
        return many < 10 * few * 4

    # The collector's sweeps over everything that other tests left are no time of the parser's, and neither is what a busy machine adds.
    gc.collect()
    gc.disable()
    try:
        seconds(2_000)
        right = any(grows_as_it_should() for _ in range(3))
    finally:
        gc.enable()
    assert right, "ten times the text, and far more than ten times the time"
