"""One answer as it is read: its parts, and where it ends before the model would end it."""

from __future__ import annotations

from collections.abc import Sequence

from modelyard_runtime.models.answer import AnswerParser, Content, Part
from modelyard_runtime.models.text import StopStrings


class AnswerReader:
    """Takes an answer's text as it comes, up to a stop string, or with ``one_call`` to the end of its first call.

    Stop strings are looked for in the content alone: within the reasoning or a call they would leave an answer without content, or
    arguments that are no JSON. ``stopped`` says that one was met; ``withheld`` is how many characters at the end of the text that was
    read are not the answer's because of it, or may turn out not to be.
    """

    def __init__(self, parser: AnswerParser, stop: Sequence[str] = (), *, one_call: bool = False):
        self.stopped = False
        self.withheld = 0
        self._parser = parser
        self._stops = StopStrings(stop)
        self._one_call = one_call

    @property
    def over(self) -> bool:
        """Whether the answer may end here."""
        return self.stopped or (self._one_call and self._parser.complete > 0)

    def push(self, text: str) -> list[Part]:
        """Returns the parts that became certain."""
        return self._read(self._parser.push(text))

    def finish(self) -> list[Part]:
        """Returns what was held back; the text has ended."""
        if self.stopped:
            return []
        parts = self._read(self._parser.finish())
        return parts if self.stopped else parts + self._rest()

    def _read(self, parts: Sequence[Part]) -> list[Part]:
        read: list[Part] = []
        for part in parts:
            read += self._content(part.text) if isinstance(part, Content) else [*self._rest(), part]
            if self.stopped:
                break
        return read

    def _content(self, text: str) -> list[Part]:
        known = self.withheld + len(text)
        out, self.stopped = self._stops.push(text)
        self.withheld = known - len(out)
        return [Content(out)] if out else []

    def _rest(self) -> list[Part]:
        """Returns what began a stop string and goes on otherwise."""
        self.withheld = 0
        text = self._stops.flush()
        return [Content(text)] if text else []
