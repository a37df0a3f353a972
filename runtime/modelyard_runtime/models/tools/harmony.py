"""What GPT-OSS writes: messages on channels, https://github.com/openai/harmony.

<|channel|>analysis<|message|>…<|end|><|start|>assistant<|channel|>commentary to=functions.name <|constrain|>json<|message|>{…}<|call|>
"""

from __future__ import annotations

import re

from modelyard_runtime.models.tools.output import Output, StateParser

MARKERS = ("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>")
_MESSAGE, _NEXT, _ENDS = "<|message|>", ("<|start|>", "<|channel|>"), ("<|end|>", "<|call|>", "<|return|>")
_RECIPIENT = re.compile(r"to=functions\.([A-Za-z0-9_.-]{1,128})")
_CHANNEL = re.compile(r"<\|channel\|>\s*([a-z]+)")
_MOST_HEADER = 512


class HarmonyParser(StateParser):
    """The analysis is reasoning, what is said to functions is calls, everything else is the answer."""

    def __init__(self, output: Output | None = None):
        super().__init__(output or Output())
        self._header: list[str] = []
        self._say = self.output.content
        self.state = self._head

    @property
    def thinking(self) -> bool:
        """Whether the text has ended in the reasoning so far."""
        return self.state == self._body and self._say == self.output.reasoning

    def _head(self) -> bool:
        """At a message's beginning. Text without a header is the answer's."""
        met = [self.meets(marker) for marker in _NEXT]
        if True in met:
            self._header = [_NEXT[met.index(True)]]
            return self.go(self._in_header)
        if None in met:
            return False
        self._say = self.output.content
        return self.go(self._body)

    def _in_header(self) -> bool:
        before, marker = self.upto(_MESSAGE)
        self._header.append(before)
        header = "".join(self._header)
        if marker is None and not self.ended and len(header) < _MOST_HEADER:
            self._header = [header]
            return False
        if marker is None or len(header) >= _MOST_HEADER:
            self.output.content(header + (marker or ""))
            self._say = self.output.content
        else:
            self._open(header)
        return self.go(self._body)

    def _open(self, header: str) -> None:
        recipient, channel = _RECIPIENT.search(header), _CHANNEL.search(header)
        self._say = self.output.content
        if recipient is not None:
            self.output.start(recipient[1])
            self._say = self.output.arguments
        elif channel is not None and channel[1] == "analysis":
            self._say = self.output.reasoning

    def _body(self) -> bool:
        before, marker = self.upto(*_NEXT, *_ENDS)
        self._say(before)
        if marker is not None and self._say == self.output.arguments:
            self.output.end_call()
        if marker in _NEXT:
            self._header = [marker]
            return self.go(self._in_header)
        return marker is not None and self.go(self._head)
