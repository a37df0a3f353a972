"""Calls as Hermes and Qwen write them: ``<tool_call>{"name": …, "arguments": {…}}</tool_call>``, one block per call."""

from __future__ import annotations

from modelyard_runtime.models.tools.call import CallReader
from modelyard_runtime.models.tools.output import Output, StateParser

OPEN, CLOSE = "<tool_call>", "</tool_call>"


class HermesParser(StateParser):
    """Blocks of calls in text. What is in a block and no call goes out as text, markers and all."""

    def __init__(self, output: Output | None = None):
        super().__init__(output or Output())
        self._blank = ""
        self._reader = self._new_reader()
        self.state = self._content

    def _content(self) -> bool:
        before, marker = self.upto(OPEN)
        self.output.content(before)
        return marker is not None and self.go(self._opened)

    def _opened(self) -> bool:
        begin = self.at
        there = self.skip_blank()
        self._blank += self.text[begin : self.at]
        if there and self.text[self.at] == "{":
            self._reader = self._new_reader()
            return self.go(self._call)
        if there or self.ended:
            self.output.content(OPEN + self._blank)
            self._blank = ""
            return self.go(self._content)
        return False

    def _call(self) -> bool:
        self.at = self._reader.push(self.text, self.at)
        if self.ended:
            self._reader.finish()
        if not self._reader.done:
            return False
        rejected, blank, self._blank = self._reader.rejected, self._blank, ""
        if rejected is not None:
            self.output.content(OPEN + blank + rejected)
            return self.go(self._content)
        return self.go(self._closing)

    def _closing(self) -> bool:
        """The end of a block, which models forget at times, or another call in it."""
        if not self.skip_blank():
            return False
        if self.text[self.at] == "{":
            self._reader = self._new_reader()
            return self.go(self._call)
        closed = self.meets(CLOSE)
        return closed is not None and self.go(self._content)

    def _new_reader(self) -> CallReader:
        return CallReader(self.output, lambda name: True)
