"""Calls as Mistral's models write them: ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]``, or since 2025
``[TOOL_CALLS]name[ARGS]{…}``, with ``[CALL_ID]`` between or without the inner markers, once for each call.
"""

from __future__ import annotations

import re

from modelyard_runtime.models.tools.call import CallReader, Span
from modelyard_runtime.models.tools.output import Output, StateParser, short_call_id

OPEN = "[TOOL_CALLS]"
#: A name, and what may stand between it and its arguments.
_NAMED = re.compile(r"\s*([A-Za-z0-9_.:-]{1,128})(?:\[CALL_ID\][A-Za-z0-9]{0,64})?(?:\[ARGS\])?\s*(?=\{)")
_NAMED_SO_FAR = re.compile(r"\s*[A-Za-z0-9_.:-]{0,128}(?:\[[A-Z_]{0,7}(?:\][A-Za-z0-9]{0,64}(?:\[[A-Z]{0,4}\]?)?)?)?\s*")
_MOST_NAMED = 256


class MistralParser(StateParser):
    """Calls after a marker. What follows it and is no call goes out as text, the marker too."""

    def __init__(self, output: Output | None = None):
        super().__init__(output or Output(short_call_id))
        self._lead = ""
        self._reader = self._new_reader()
        self._span = Span()
        self.state = self._content

    def _content(self) -> bool:
        before, marker = self.upto(OPEN)
        self.output.content(before)
        self._lead = marker or ""
        return marker is not None and self.go(self._opened)

    def _opened(self) -> bool:
        rest = self.text[self.at : self.at + _MOST_NAMED]
        first = rest.lstrip()[:1]
        if first == "[" and not OPEN.startswith(rest.lstrip()[: len(OPEN)]):
            self._lead += rest[: rest.index("[") + 1]
            self.at += rest.index("[") + 1
            return self.go(self._listed)
        named = _NAMED.match(rest)
        if named is not None:
            self.at += named.end()
            self.output.start(named[1])
            self._span = Span()
            return self.go(self._arguments)
        if len(rest) < _MOST_NAMED and not self.ended and (_NAMED_SO_FAR.fullmatch(rest) or not first):
            return False
        return self._as_text("")

    def _listed(self) -> bool:
        """In the list, where a call begins or the list ends."""
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n,":
            self.at += 1
        if self.at == len(self.text) and not self.ended:
            return False
        if self.text.startswith("{", self.at):
            self._reader = self._new_reader()
            return self.go(self._call)
        if self.text.startswith("]", self.at) and not self._lead:
            self.at += 1
        return self._as_text("")

    def _call(self) -> bool:
        self.at = self._reader.push(self.text, self.at)
        if self.ended:
            self._reader.finish()
        if not self._reader.done:
            return False
        if self._reader.rejected is not None:
            return self._as_text(self._reader.rejected)
        self._lead = ""
        return self.go(self._listed)

    def _arguments(self) -> bool:
        end = self._span.push(self.text, self.at, len(self.text))
        self.output.arguments(self.text[self.at : end])
        self.at = end
        return (self._span.done or self._span.broken) and self.go(self._content)

    def _as_text(self, text: str) -> bool:
        self.output.content(self._lead + text)
        self._lead = ""
        return self.go(self._content)

    def _new_reader(self) -> CallReader:
        return CallReader(self.output, lambda name: True)
