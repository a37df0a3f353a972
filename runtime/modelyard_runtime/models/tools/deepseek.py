"""Calls as DeepSeek's models write them, V3 and R1 with words around the arguments, V3.1 without:

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>name⏎```json⏎{…}⏎```<｜tool▁call▁end｜><｜tool▁calls▁end｜>
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>name<｜tool▁sep｜>{…}<｜tool▁call▁end｜><｜tool▁calls▁end｜>
"""

from __future__ import annotations

import re

from modelyard_runtime.models.tools.call import Span, pass_on
from modelyard_runtime.models.tools.output import Output, StateParser

ALL, BEGIN, SEPARATOR, END, ALL_END = (
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁calls▁end｜>",
)
MARKERS = (ALL, BEGIN, SEPARATOR, END, ALL_END)
_HEAD = re.compile(rf"\s*(?:function{SEPARATOR}([A-Za-z0-9_.:-]{{1,128}})\s*```(?:json)?|([A-Za-z0-9_.:-]{{1,128}}){SEPARATOR})\s*(?=\{{)")
_MOST_HEAD = 256


class DeepSeekParser(StateParser):
    """Calls between markers. What begins as one and is none goes out as text, the marker too."""

    def __init__(self, output: Output | None = None):
        super().__init__(output or Output())
        self._span = Span()
        self.state = self._content

    def _content(self) -> bool:
        before, marker = self.upto(*MARKERS)
        self.output.content(before)
        return marker is not None and (marker != BEGIN or self.go(self._head))

    def _head(self) -> bool:
        rest = self.text[self.at : self.at + _MOST_HEAD]
        head = _HEAD.match(rest)
        if head is not None:
            self.at += head.end()
            self.output.start(head[1] or head[2])
            self._span = Span()
            return self.go(self._arguments)
        if len(rest) < _MOST_HEAD and not self.ended and END not in rest:
            return False
        self.output.content(BEGIN)
        return self.go(self._content)

    def _arguments(self) -> bool:
        return pass_on(self, self._span) and self.go(self._after)

    def _after(self) -> bool:
        """Past the end of a code block, to the call's end."""
        _, marker = self.upto(END, ALL_END, BEGIN)
        if marker == BEGIN:
            self.at -= len(BEGIN)
        return marker is not None and self.go(self._content)
