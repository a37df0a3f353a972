"""From tokens to text as they come: whole characters only, and never past a stop string."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modelyard_runtime.engine.base import FinishReason, TokenEvent
from modelyard_runtime.models.answer import Part

_REPLACEMENT = "\ufffd"
#: Tokens after which text that still does not decode is given out as it is: a character has at most four bytes.
_PATIENCE = 16


@dataclass(frozen=True, slots=True)
class TextToken:
    """A token of an answer's text, which begins ``offset`` characters into it."""

    offset: int
    event: TokenEvent


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text that became certain, and the tokens since the last delta. ``completion_tokens`` counts all so far, the end of sequence too.

    ``finish_reason`` is set on the last delta. ``tokens`` are those whose text has begun to go out: without the end of sequence, and
    without what a stop string cut off. ``parts`` are what the text became, where somebody reads it.
    """

    text: str
    events: tuple[TokenEvent, ...]
    completion_tokens: int
    finish_reason: FinishReason | None = None
    tokens: tuple[TextToken, ...] = ()
    parts: tuple[Part, ...] = ()

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Ids of the tokens since the last delta."""
        return tuple(event.token_id for event in self.events if event.token_id is not None)


class Detokeniser:
    """Turns tokens into text one by one, at constant cost per token.

    A token's text depends on its left neighbours (spaces, characters split over tokens). So each step decodes a short window twice: with
    and without what is new, and gives out the difference once it ends in a whole character. Special tokens have no text but for those
    that are ``visible``, whose text is their name.
    """

    def __init__(self, tokenizer: Any, visible: frozenset[int] = frozenset()):
        self._tokenizer = tokenizer
        self._visible = visible
        self._window: list[int] = []
        self._given = 0

    def push(self, token: int) -> str:
        """Returns the text that a token completes; empty while a character is incomplete."""
        if token in self._visible:
            return self._spell(token)
        self._window.append(token)
        text = self._new_text()
        impatient = len(self._window) - self._given >= _PATIENCE
        if text.endswith(_REPLACEMENT) and not impatient:
            return ""
        if not text and impatient:
            del self._window[self._given :]  # special tokens, which have no text and no influence on their neighbours'
        return self._give(text)

    def flush(self) -> str:
        """Returns what is left, incomplete characters as they decode."""
        return self._give(self._new_text())

    def _spell(self, token: int) -> str:
        """Returns what is left and a special token's name; the text begins anew after it."""
        text = self.flush() + str(self._tokenizer.convert_ids_to_tokens(token))
        self._window, self._given = [], 0
        return text

    def _new_text(self) -> str:
        known = self._decode(self._window[: self._given])
        return self._decode(self._window)[len(known) :]

    def _give(self, text: str) -> str:
        if text:
            self._window = self._window[self._given :]
            self._given = len(self._window)
        return text

    def _decode(self, tokens: list[int]) -> str:
        text: str = self._tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


class StopStrings:
    """Holds back text that may be the beginning of a stop string, and ends it before a whole one."""

    def __init__(self, stops: Sequence[str]):
        self._stops = [stop for stop in stops if stop]
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Returns the text that may go out, and whether a stop string was met: nothing goes out after that."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            out, self._held = self._held[: min(found)], ""
            return out, True
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out, False

    def flush(self) -> str:
        """Returns what was held back: the text has ended, so no stop string will complete."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Returns the length of the longest end of ``text`` that begins ``stop`` without being all of it."""
    return next((size for size in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:size])), 0)
