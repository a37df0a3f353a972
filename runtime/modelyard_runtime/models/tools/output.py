"""What parsers of tool calls are built of: the parts that go out, and text that is read state by state."""

from __future__ import annotations

import re
import secrets
import string
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import groupby

from modelyard_runtime.models.answer import Content, Part, Reasoning, ToolCallArguments, ToolCallStart

NewId = Callable[[], str]
State = Callable[[], bool]
_SIGNS = string.ascii_letters + string.digits


def call_id() -> str:
    """Returns a new id of a call, as OpenAI's look."""
    return "call_" + secrets.token_hex(12)


def short_call_id() -> str:
    """Returns a new id of nine letters and digits: templates of Mistral's models refuse others."""
    return "".join(secrets.choice(_SIGNS) for _ in range(9))


class Output:
    """Parts in order. Whitespace beside a call is the format's, not the answer's: it goes out only before more text.

    ``calls`` have begun, and the first ``complete`` of them are at their end.
    """

    def __init__(self, new_id: NewId = call_id):
        self.calls = 0
        self.complete = 0
        self._new_id = new_id
        self._parts: list[Part] = []
        self._blank: list[str] = []
        self._after_call = False

    def content(self, text: str) -> None:
        """Adds text of the answer."""
        if self._after_call:
            text = text.lstrip()
        solid = text.rstrip()
        if solid:
            self._after_call = False
            self._parts.append(Content("".join(self._blank) + solid))
            self._blank.clear()
        if blank := text[len(solid) :]:
            self._blank.append(blank)

    def reasoning(self, text: str) -> None:
        """Adds text of the reasoning."""
        if text:
            self._parts.append(Reasoning(text))

    def start(self, name: str) -> None:
        """Begins a call."""
        self._blank.clear()
        self._after_call = True
        self._parts.append(ToolCallStart(self.calls, self._new_id(), name))
        self.calls += 1

    def arguments(self, text: str) -> None:
        """Adds to the arguments of the call that began last."""
        if text:
            self._parts.append(ToolCallArguments(self.calls - 1, text))

    def end_call(self) -> None:
        """Ends the call that began last."""
        self.complete = self.calls

    def end(self) -> None:
        """Lets go of whitespace at the end of a text that is no call's."""
        if self._blank and not self._after_call:
            self._parts.append(Content("".join(self._blank)))
        self._blank.clear()

    def take(self) -> list[Part]:
        """Returns the parts since the last time, neighbours of one kind joined."""
        parts, self._parts = self._parts, []
        return [part for _, run in groupby(parts, key=_kind) for part in _joined(list(run))]


def _kind(part: Part) -> tuple[type[Part], int]:
    return type(part), part.index if isinstance(part, ToolCallArguments) else 0


def _joined(run: list[Part]) -> list[Part]:
    """Returns parts of one kind as one, where they are text."""
    match run[0]:
        case ToolCallStart():
            return run
        case first:
            return [replace(first, text="".join(part.text for part in run if not isinstance(part, ToolCallStart)))]


class StateParser:
    """A parser whose states are methods. Each reads on from ``at`` and returns whether it got anywhere, so that another may be next.

    A state waits for more text while what it has may still become something else; when ``ended``, it waits no more.
    """

    def __init__(self, output: Output):
        self.output = output
        self.text = ""
        self.at = 0
        self.ended = False
        self.state: State = lambda: False

    @property
    def complete(self) -> int:
        """How many calls are at their end."""
        return self.output.complete

    def push(self, text: str) -> list[Part]:
        """Returns the parts that became certain."""
        self.text = self.text[self.at :] + text
        self.at = 0
        return self._run()

    def finish(self) -> list[Part]:
        """Returns what was held back; the text has ended."""
        self.ended = True
        parts = self._run()
        self.output.end()
        return parts + self.output.take()

    def _run(self) -> list[Part]:
        while self.state():
            pass
        return self.output.take()

    def go(self, state: State) -> bool:
        """Changes the state; what a state returns when it did its part."""
        self.state = state
        return True

    def skip_blank(self) -> bool:
        """Goes to the next character that is not blank; returns whether there is one."""
        length = len(self.text)
        while self.at < length and self.text[self.at].isspace():
            self.at += 1
        return self.at < length

    def upto(self, *markers: str) -> tuple[str, str | None]:
        """Takes the text before the first marker, and the marker; without one, the text that cannot be part of one."""
        found = _any_of(markers).search(self.text, self.at)
        if found is not None:
            before, self.at = self.text[self.at : found.start()], found.end()
            return before, found[0]
        keep = 0 if self.ended else max(held(self.text, self.at, marker) for marker in markers)
        cut = len(self.text) - keep
        before, self.at = self.text[self.at : cut], cut
        return before, None

    def meets(self, marker: str) -> bool | None:
        """Whether the text goes on with a marker, which is then taken; None when it takes more text to tell."""
        if self.text.startswith(marker, self.at):
            self.at += len(marker)
            return True
        rest = self.text[self.at : self.at + len(marker)]
        return None if marker.startswith(rest) and not self.ended else False


@cache
def _any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, markers)))


def held(text: str, at: int, marker: str) -> int:
    """Returns the length of the longest end of ``text`` after ``at`` that begins ``marker`` without being all of it."""
    most = min(len(text) - at, len(marker) - 1)
    return next((size for size in range(most, 0, -1) if text.endswith(marker[:size])), 0)
