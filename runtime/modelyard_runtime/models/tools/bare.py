"""Calls in JSON that is all of the answer, as Llama 3 writes them, or after its marker: ``{"name": …, "parameters": {…}}``.

Several calls follow each other or are in a list, and may be in a Markdown code block. JSON is a call when it names one of the request's
tools; other JSON is the answer.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from modelyard_runtime.models.tools.call import CallParser
from modelyard_runtime.models.tools.output import Output, State

LLAMA_MARKER = "<|python_tag|>"
_FENCES = ("", "```", "```json")
#: Characters within which a call begins, or does not.
_MOST_LEAD = 64


class BareParser(CallParser):
    """Calls at the beginning of a text, and after ``marker`` where the family has one."""

    def __init__(self, tools: Collection[str], marker: str | None = None, output: Output | None = None):
        super().__init__(output or Output(), frozenset(tools).__contains__)
        self._marker = marker
        markers = ("",) if marker is None else ("", marker)
        self._leads = [a + fence + bracket + "{" for a in markers for fence in _FENCES for bracket in ("", "[")]
        self._pattern = re.compile(rf"\s*(?:{re.escape(markers[-1])}\s*)?(?:```(?:json)?\s*)?(?:\[\s*)?(?=\{{)")
        self._between_calls = ""
        self.state = self._begin

    def _begin(self) -> bool:
        """Tells a call from text; what may lead to a call is held back until then."""
        rest = self.text[self.at : self.at + _MOST_LEAD]
        lead = self._pattern.match(rest)
        if lead is not None:
            self.lead += lead[0]
            self.at += lead.end()
            return self.go_to_call()
        compact = "".join(rest.split())
        if len(rest) < _MOST_LEAD and not self.ended and any(lead.startswith(compact) for lead in self._leads):
            return False
        return self.go_to_text()

    def _content(self) -> bool:
        if self._marker is None:
            self.output.content(self.text[self.at :])
            self.at = len(self.text)
            return False
        return self.go_past(self._marker, self._begin)

    def _after(self, lead: str) -> State:
        self._between_calls += "".join(sign for open_, sign in (("[", "]"), ("`", "`")) if open_ in lead)
        return self._between

    def _between(self) -> bool:
        """After a call: another one, the end of the list or of the code block, or text."""
        while self.at < len(self.text) and (self.text[self.at].isspace() or self.text[self.at] in ",;" + self._between_calls):
            self.at += 1
        if self.at == len(self.text):
            return False
        return self.go_to_call() if self.text[self.at] == "{" else self.go(self._content)
