"""Calls as Hermes and Qwen write them: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, one block per call."""

from __future__ import annotations

from modelyard_runtime.models.tools.call import CallParser
from modelyard_runtime.models.tools.output import Output, State

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesParser(CallParser):
    """Blocks of calls in text. What is in a block and no call goes out as text, markers and all."""

    def __init__(self, output: Output | None = None):
        super().__init__(output or Output())

    def _content(self) -> bool:
        return self.go_past(OPEN, self._opened)

    def _opened(self) -> bool:
        begin = self.at
        there = self.skip_blank()
        self.lead += self.text[begin : self.at]
        if there and self.text[self.at] == "{":
            return self.go_to_call()
        return (there or self.ended) and self.go_to_text()

    def _after(self, lead: str) -> State:
        return self._closing

    def _closing(self) -> bool:
        """The end of a block, which models forget at times, or another call in it."""
        if not self.skip_blank():
            return False
        if self.text[self.at] == "{":
            self.lead = OPEN
            return self.go_to_call()
        closed = self.meets(CLOSE)
        return closed is not None and self.go(self._content)
