"""Where two windows overlap, both have heard the same words: these are said once, and none is lost.

The words of both in the overlap are aligned by what they say; in the middle of the longest agreement the text goes over from the one
to the other. Where they agree on nothing, time decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from difflib import SequenceMatcher

from modelyard_runtime.speech.base import Segment, Word


def join(before: Sequence[Segment], after: Sequence[Segment], shared: tuple[float, float]) -> tuple[list[Segment], list[Segment]]:
    """Returns the segments of two windows that share some seconds, each without what is the other's.

    A segment that has no words belongs to the window in whose half it begins.
    """
    start, end = shared
    half_way = (start + end) / 2
    tail = [word for segment in before for word in segment.words if _middle(word) >= start]
    head = [word for segment in after for word in segment.words if _middle(word) <= end]
    agreed = SequenceMatcher(None, [_plain(word) for word in tail], [_plain(word) for word in head], autojunk=False)
    match = agreed.find_longest_match()
    if match.size:
        half = (match.size + 1) // 2
        dropped, taken = tail[match.a + half :], head[: match.b + half]
    else:
        dropped = [word for word in tail if _middle(word) >= half_way]
        taken = [word for word in head if _middle(word) < half_way]
    before = [segment for segment in before if segment.words or segment.start < half_way]
    after = [segment for segment in after if segment.words or segment.start >= half_way]
    return _without(before, dropped), _without(after, taken)


def _without(segments: Sequence[Segment], words: Sequence[Word]) -> list[Segment]:
    gone = set(map(id, words))
    kept = (_keep(segment, tuple(word for word in segment.words if id(word) not in gone)) for segment in segments)
    return [segment for segment in kept if segment is not None]


def _keep(segment: Segment, words: tuple[Word, ...]) -> Segment | None:
    """Returns a segment with some of its words; None when none is left. Which tokens they are is not known any more."""
    if len(words) == len(segment.words):
        return segment
    if not words:
        return None
    text = "".join(word.text for word in words)
    return replace(segment, start=words[0].start, end=words[-1].end, text=text, words=words, tokens=())


def _middle(word: Word) -> float:
    return (word.start + word.end) / 2


def _plain(word: Word) -> str:
    return "".join(letter for letter in word.text.casefold() if letter.isalnum()) or word.text.strip()
