"""Calls as Mistral's models write them: ``[TOOL_CALLS][{"name": …, "arguments": {…}}, …]``, or since 2025
``[TOOL_CALLS]name[ARGS]{…}``, with ``[CALL_ID]`` between or without the inner markers, once for each call.
"""

from __future__ import annotations

import re

from modelyard_runtime.models.tools.call import CallParser, Span, pass_on
from modelyard_runtime.models.tools.output import Output, State, short_call_id

OPEN = "[TOOL_CALLS]"
#: A name, and what may stand between it and its arguments.
_NAMED = re.compile(r"\s*([A-Za-z0-9_.:-]{1,128})(?:\[CALL_ID\][A-Za-z0-9]{0,64})?(?:\[ARGS\])?\s*(?=\{)")
_NAMED_SO_FAR = re.compile(r"\s*[A-Za-z0-9_.:-]{0,128}(?:\[[A-Z_]{0,7}(?:\][A-Za-z0-9]{0,64}(?:\[[A-Z]{0,4}\]?)?)?)?\s*")
_MOST_NAMED = 256


class MistralParser(CallParser):
    """Calls after a marker. What follows it and is no call goes out as text, the marker too."""

    def __init__(self, output: Output | None = None):
        super().__init__(output or Output(short_call_id))
        self._span = Span()

    def _content(self) -> bool:
        return self.go_past(OPEN, self._opened)

    def _opened(self) -> bool:
        rest = self.text[self.at : self.at + _MOST_NAMED]
        first = rest.lstrip()[:1]
        if first == "[" and not OPEN.startswith(rest.lstrip()[: len(OPEN)]):
            self.lead += rest[: rest.index("[") + 1]
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
        return self.go_to_text()

    def _listed(self) -> bool:
        """In the list, where a call begins or the list ends."""
        while self.at < len(self.text) and self.text[self.at] in " \t\r\n,":
            self.at += 1
        if self.at == len(self.text) and not self.ended:
            return False
        if self.text.startswith("{", self.at):
            return self.go_to_call()
        if self.text.startswith("]", self.at) and not self.lead:
            self.at += 1
        return self.go_to_text()

    def _after(self, lead: str) -> State:
        return self._listed

    def _arguments(self) -> bool:
        return pass_on(self, self._span) and self.go(self._content)
