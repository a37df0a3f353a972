"""Grammars of answers that must be calls, or whose calls must keep their schemas, in each family's own writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard_runtime.models import reasoning
from modelyard_runtime.models.dialect import Dialect
from modelyard_runtime.models.tools import deepseek, hermes, mistral, pythonic
from modelyard_runtime.models.tools.bare import LLAMA_MARKER
from modelyard_runtime.models.tools.listed import Argument, arguments_of, separated, spread
from modelyard_runtime.models.tools.tagged import GLM, QWEN, Tags
from modelyard_runtime.structured.grammar import choice, grammar, json_rule, literal

_LINE = "\n"
#: The key of the arguments, where it is not `arguments`.
_KEYS = {"llama3": "parameters"}
_TEXT = "TEXT: /(.|\\n)*/"
#: Text that no parser takes for calls: it does not begin as JSON does.
_WORDS = "WORDS: /([^{\\[`\\s](.|\\n)*)?/"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an answer may be.

    ``tools`` maps the names that may be called to normalised schemas of their arguments. ``forced`` when it must be calls, ``parallel``
    when it may be several. ``answer`` is the schema of the answer where it is none; without one it is free text.
    """

    tools: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    forced: bool = False
    parallel: bool = True
    answer: str | None = None


def answer_grammar(dialect: Dialect, wanted: Wanted, *, thinks: bool, thought: bool) -> str:
    """Returns the grammar of an answer. ``thinks``: the prompt opened the reasoning; ``thought``: it has closed it already."""
    writer = _Writer(dialect)
    start = writer.answer(wanted)
    if not thought:
        start = f"{writer.reasoning(opened=thinks)}({start})"
    return grammar(start, writer.rules)


class _Writer:
    """Collects rules."""

    def __init__(self, dialect: Dialect):
        self.rules = [_TEXT]
        self._dialect = dialect
        self._tails = 0
        self._values = 0

    def answer(self, wanted: Wanted) -> str:
        """Returns the expression of all after the reasoning."""
        if wanted.answer is not None:
            self.rules.append(f"answer: {self._final()}{wanted.answer}")
        if not wanted.tools:
            return "answer"
        calls = self._calls(wanted)
        if wanted.forced:
            return calls
        return f"{calls} | answer" if wanted.answer is not None else self._beside_text(wanted, calls)

    def reasoning(self, *, opened: bool) -> str:
        """Returns the expression of reasoning before an answer, empty for models that do not reason."""
        if self._dialect.reasoning == "harmony":
            thought = f'{self._token("<|channel|>")} "analysis" {self._token("<|message|>")} {self._until("<|end|>")}'
            return f'({thought} {self._token("<|start|>")} "assistant")? '
        if self._dialect.reasoning != "think":
            return ""
        closed = f"{self._until(reasoning.CLOSE)} BLANK"
        self.rules.append("BLANK: /\\s{0,4}/")
        return f"{closed} " if opened else f"({self._token(reasoning.OPEN)} {closed})? "

    def _calls(self, wanted: Wanted) -> str:
        names = list(wanted.tools)
        for index, name in enumerate(names):
            self._arguments(wanted.tools[name], index)
        each = [self._call(name, index) for index, name in enumerate(names)]
        self.rules.append("call: " + " | ".join(each))
        if self._dialect.tools == "mistral":
            repeated = "+" if wanted.parallel and self._dialect.named_calls else ""
            return f"({self._token(mistral.OPEN)} {self._marked(wanted)}){repeated}"
        before, one, between, after = self._frame()
        more = f"({literal(between)} {one})*" if between and wanted.parallel else ""
        return " ".join(part for part in (before, one, more, after) if part)

    def _frame(self) -> tuple[str, str, str, str]:
        """Returns what stands before the calls, the expression of one, the text between two, and what stands after them."""
        frame = ("", "call", _LINE, "")
        match self._dialect.tools:
            case "hermes" | "qwen3_coder" | "glm":
                self.rules.append(f"block: {self._token(hermes.OPEN)} {self._inside()} {self._token(hermes.CLOSE)}")
                frame = ("", "block", _LINE, "")
            case "deepseek":
                self.rules.append(f"block: {self._token(deepseek.BEGIN)} call {self._token(deepseek.END)}")
                frame = (self._token(deepseek.ALL), "block", _LINE, self._token(deepseek.ALL_END))
            case "pythonic":
                frame = ('"["', "call", ", ", '"]"')
            case "llama3":
                frame = ("", "call", "; ", "")
            case "harmony":
                frame = ("", "call", "", "")
        return frame

    def _arguments(self, schema: dict[str, Any], index: int) -> None:
        """Adds the rule of a tool's arguments. Raises NotListed."""
        rule = f"arguments_{index}"
        match self._dialect.tools:
            case "qwen3_coder" | "glm" as style:
                tags = QWEN if style == "qwen3_coder" else GLM
                self.rules.append(f"{rule}: {spread([(self._tagged(tags, one), one.required) for one in arguments_of(schema)])}")
            case "pythonic":
                pairs = [(f"{literal(f'{one.name}=')} {self._valued(one)}", one.required) for one in arguments_of(schema)]
                self.rules += separated(pairs, rule)
            case _:
                self.rules.append(f"{rule}: {json_rule(schema)}")

    def _tagged(self, tags: Tags, one: Argument) -> str:
        line = _LINE if tags.lines else ""
        value, close = self._valued(one), self._token(tags.value[1])
        if one.plain and "enum" not in one.schema and "const" not in one.schema:
            value = self._plain(one, line, tags.value[1])
        else:
            value = f"{value} {literal(line)} {close}"
        named = f"{self._token(tags.key[0])} {literal(one.name)} {self._token(tags.key[1])}"
        opened = f"{literal(_LINE)} {self._token(tags.value[0])}" if tags.value[0] else literal(line)
        return f"{named} {opened} {value} {literal(_LINE)}"

    def _valued(self, one: Argument) -> str:
        """Returns the expression of a value: what is written without quotes, where that is a few texts, else JSON."""
        self._values += 1
        if self._dialect.tools != "pythonic" and one.plain and ("enum" in one.schema or "const" in one.schema):
            texts = one.schema.get("enum", [one.schema.get("const")])
            self.rules.append(f"value_{self._values}: {choice(text for text in texts if isinstance(text, str))}")
        else:
            self.rules.append(f"value_{self._values}: {one.value}")
        return f"value_{self._values}"

    def _plain(self, one: Argument, line: str, close: str) -> str:
        """Returns the expression of a text without quotes, and of the tag that ends it."""
        self._tails += 1
        text = f"/(.|\\n){{{one.schema.get('minLength', 0)},{one.schema.get('maxLength', '')}}}/"
        if close in self._dialect.markers:
            return f"{text} {literal(line)} {self._token(close)}"
        self.rules.append(f"until_{self._tails}[lazy]: {text} {literal(line + close)}")
        return f"until_{self._tails}"

    def _inside(self) -> str:
        return "call" if self._dialect.tools == "glm" else '"\\n" call "\\n"'

    def _call(self, name: str, index: int) -> str:
        before, after = self._around(name)
        return f"{before} arguments_{index} {after}"

    def _around(self, name: str) -> tuple[str, str]:
        """Returns the expressions of what stands before and after the arguments of a call."""
        around = (literal(f'{{"name": {json.dumps(name)}, "{_KEYS.get(self._dialect.tools, "arguments")}": '), '"}"')
        match self._dialect.tools:
            case "harmony":
                to = f'{self._token("<|channel|>")} {literal(f"commentary to=functions.{name} ")} {self._token("<|constrain|>")} "json"'
                around = (f"{to} {self._token('<|message|>')}", "")
            case "qwen3_coder":
                around = (literal(QWEN.name[0] + name + QWEN.name[1] + _LINE), literal(QWEN.ends[0]))
            case "glm":
                around = (literal(name + _LINE), "")
            case "pythonic":
                around = (literal(f"{name}("), '")"')
            case "deepseek":
                begin, open_, close = (name, "", "") if self._dialect.named_calls else ("function", f"{name}\n```json\n", "\n```")
                around = (f"{literal(begin)} {self._token(deepseek.SEPARATOR)} {literal(open_)}", literal(close))
            case "mistral" if self._dialect.named_calls:
                around = (f"{literal(name)} {self._token('[ARGS]')}", "")
        return around

    def _marked(self, wanted: Wanted) -> str:
        """Returns the expression of what follows Mistral's marker."""
        more = '(", " call)*' if wanted.parallel else ""
        return "call" if self._dialect.named_calls else f'"[" call {more} "]"'

    def _beside_text(self, wanted: Wanted, calls: str) -> str:
        """Returns free text in which a call, once it is begun, keeps to its schema."""
        match self._dialect.tools:
            case "hermes" | "qwen3_coder" | "glm":
                opened = self._until(hermes.OPEN)
                self.rules.append(f"free: {opened} {self._inside()} {self._token(hermes.CLOSE)}")
            case "deepseek":
                opened = self._until(deepseek.BEGIN)
                self.rules.append(f"free: {opened} call {self._token(deepseek.END)}")
            case "pythonic":
                self.rules.append(_WORDS)
                marked = f"{self._token(pythonic.START)} {calls} {self._token(pythonic.END)} | "
                return f"{marked if pythonic.START in self._dialect.markers else ''}{calls} | WORDS"
            case "mistral":
                self.rules.append(f"free: {self._until(mistral.OPEN)} {self._marked(wanted)}")
            case "harmony":
                return f"{self._final()}TEXT | {calls}"
            case style:
                self.rules.append(_WORDS)
                marked = f"{self._token(LLAMA_MARKER)} {calls} | " if style == "llama3" and LLAMA_MARKER in self._dialect.markers else ""
                return f"{marked}{calls} | WORDS"
        return f"free{'*' if wanted.parallel else '?'} TEXT"

    def _final(self) -> str:
        if self._dialect.reasoning != "harmony":
            return ""
        return f'{self._token("<|channel|>")} "final" {self._token("<|message|>")} '

    def _token(self, marker: str) -> str:
        """Returns the expression of a marker: its token where it has one of its own, else its text."""
        index = self._dialect.markers.get(marker)
        return literal(marker) if index is None else f"<[{index}]>"

    def _until(self, marker: str) -> str:
        """Returns the expression of any text and a marker after it."""
        if marker in self._dialect.markers:
            return f"TEXT {self._token(marker)}"
        self._tails += 1
        self.rules.append(f"until_{self._tails}[lazy]: TEXT {literal(marker)}")
        return f"until_{self._tails}"
