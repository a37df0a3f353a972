"""What an answer is made of: text for the user, reasoning before it, calls of tools.

A model says all of it as one text. A parser takes that text as it comes and gives out parts as soon as they are certain; the endpoints
turn parts into chunks, events or a whole message.
"""

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Content:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Text of the reasoning that goes before an answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A call begins: ``index`` counts the answer's calls from 0, ``id`` is unique, ``name`` is the function's."""

    index: int
    id: str
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments, which are JSON when they are complete."""

    index: int
    text: str


Part = Content | Reasoning | ToolCallStart | ToolCallArguments


class AnswerParser(Protocol):
    """Takes one answer's text as it comes. What it gives out never depends on how the text was cut."""

    @property
    def complete(self) -> int:
        """How many calls are at their end."""
        ...

    def push(self, text: str) -> list[Part]:
        """Returns the parts that became certain."""
        ...

    def finish(self) -> list[Part]:
        """Returns what was held back; the text has ended, maybe in the middle of something."""
        ...


class OneCall:
    """A parser that leaves out calls after the first, and what follows that one."""

    def __init__(self, parser: AnswerParser):
        self._parser = parser
        self._called = False
        self._over = False

    @property
    def complete(self) -> int:
        """Whether the call is at its end, as a number."""
        return min(self._parser.complete, 1)

    def push(self, text: str) -> list[Part]:
        """Returns the parts that became certain."""
        return self._first(self._parser.push(text))

    def finish(self) -> list[Part]:
        """Returns what was held back."""
        return self._first(self._parser.finish())

    def _first(self, parts: list[Part]) -> list[Part]:
        kept = []
        for part in parts:
            self._over = self._over or (self._called and not isinstance(part, ToolCallArguments))
            self._called = self._called or isinstance(part, ToolCallStart)
            if not self._over:
                kept.append(part)
        return kept


class PlainParser:
    """All of the text is content."""

    complete = 0

    def push(self, text: str) -> list[Part]:
        """Returns the text as content."""
        return [Content(text)] if text else []

    def finish(self) -> list[Part]:
        """Returns nothing: nothing is held back."""
        return []
