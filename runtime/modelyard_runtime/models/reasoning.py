"""Reasoning that models write before their answer, between ``<think>`` and ``</think>``."""

from __future__ import annotations

from modelyard_runtime.models.answer import AnswerParser, Part
from modelyard_runtime.models.tools.output import Output, StateParser

OPEN, CLOSE = "<think>", "</think>"


class ThinkParser(StateParser):
    """Splits the reasoning off; the answer after it is another parser's.

    ``opened`` says that the prompt ended inside the reasoning already: templates may open it, and the model then only closes it.
    Blanks around the reasoning and before the answer are the format's.
    """

    def __init__(self, answer: AnswerParser, *, opened: bool):
        super().__init__(Output())
        self._answer = answer
        self._opened = opened
        self._blank: list[str] = []
        self._parts: list[Part] = []
        self._said = False
        self.state = self._begin

    @property
    def thinking(self) -> bool:
        """Whether the text has ended in the reasoning so far."""
        return self.state == self._reasoning or (self._opened and self.state == self._begin)

    @property
    def complete(self) -> int:
        """How many calls are at their end."""
        return self._answer.complete

    def push(self, text: str) -> list[Part]:
        """Returns the parts that became certain."""
        return super().push(text) + self._taken()

    def finish(self) -> list[Part]:
        """Returns what was held back; the text has ended."""
        return super().finish() + self._taken() + self._answer.finish()

    def _begin(self) -> bool:
        begin = self.at
        there = self.skip_blank()
        self._blank.append(self.text[begin : self.at])
        if not there and not self.ended:
            return False
        met = self.meets(OPEN)
        if met is None:
            return False
        if met or self._opened:
            self._blank.clear()
            return self.go(self._reasoning)
        self._parts += self._answer.push("".join(self._blank))
        return self.go(self._rest)

    def _reasoning(self) -> bool:
        before, marker = self.upto(CLOSE)
        self._reason(before)
        return marker is not None and self.go(self._after)

    def _reason(self, text: str) -> None:
        text = text if self._said else text.lstrip()
        solid = text.rstrip()
        if solid:
            self._said = True
            self.output.reasoning("".join(self._blank) + solid)
            self._blank.clear()
        self._blank.append(text[len(solid) :])

    def _after(self) -> bool:
        return self.skip_blank() and self.go(self._rest)

    def _rest(self) -> bool:
        if self.at < len(self.text):
            self._parts += self._answer.push(self.text[self.at :])
            self.at = len(self.text)
        return False

    def _taken(self) -> list[Part]:
        parts, self._parts = self._parts, []
        return parts
