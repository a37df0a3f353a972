"""Grammars of answers that must be calls, or whose calls must keep their schemas, in each family's own writing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelyard_runtime.models import reasoning
from modelyard_runtime.models.dialect import Dialect
from modelyard_runtime.models.tools import hermes, mistral
from modelyard_runtime.models.tools.bare import LLAMA_MARKER
from modelyard_runtime.structured.grammar import grammar, json_rule, literal

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
            self.rules.append(f"arguments_{index}: {json_rule(wanted.tools[name])}")
        more = "" if not wanted.parallel else "*"
        each = [self._call(name, index) for index, name in enumerate(names)]
        self.rules.append("call: " + " | ".join(each))
        match self._dialect.tools:
            case "hermes":
                self.rules.append(f'block: {self._token(hermes.OPEN)} "\\n" call "\\n" {self._token(hermes.CLOSE)}')
                return f'block ("\\n" block){more}' if more else "block"
            case "mistral":
                repeated = "+" if more and self._dialect.named_calls else ""
                return f"({self._token(mistral.OPEN)} {self._marked(wanted)}){repeated}"
            case "llama3":
                return 'call ("; " call)*' if more else "call"
            case "harmony":
                return "call"
            case _:
                return 'call ("\\n" call)*' if more else "call"

    def _call(self, name: str, index: int) -> str:
        style = self._dialect.tools
        if style == "harmony":
            head = f'{self._token("<|channel|>")} {literal(f"commentary to=functions.{name} ")} {self._token("<|constrain|>")} "json"'
            return f"{head} {self._token('<|message|>')} arguments_{index}"
        if style == "mistral" and self._dialect.named_calls:
            return f"{literal(name)} {self._token('[ARGS]')} arguments_{index}"
        key = "parameters" if style == "llama3" else "arguments"
        head = f'{{"name": {json.dumps(name)}, "{key}": '
        return f'{literal(head)} arguments_{index} "}}"'

    def _marked(self, wanted: Wanted) -> str:
        """Returns the expression of what follows Mistral's marker."""
        more = '(", " call)*' if wanted.parallel else ""
        return "call" if self._dialect.named_calls else f'"[" call {more} "]"'

    def _beside_text(self, wanted: Wanted, calls: str) -> str:
        """Returns free text in which a call, once it is begun, keeps to its schema."""
        match self._dialect.tools:
            case "hermes":
                opened = self._until(hermes.OPEN)
                self.rules.append(f'free: {opened} "\\n" call "\\n" {self._token(hermes.CLOSE)}')
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
