"""What Whisper's tokens say: phrases between timestamps, and words with their times. Pure functions.

Timestamps come in pairs: the end of a phrase and the start of the next. A phrase without its end is not finished: it is read again from
its start, in a window of its own (Radford et al. 2022, §4.5).
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from faster_whisper.transcribe import merge_punctuations

from modelyard_runtime.speech.base import Word

#: Seconds that a timestamp token counts in.
TICK = 0.02
_PREPENDED, _APPENDED = "\"'“¿([{-", "\"'.。,，!！?？:：”)]}、"


class Phrase(NamedTuple):
    """Tokens between two times, which are tokens too; seconds from the window's start."""

    start: float
    end: float
    tokens: tuple[int, ...]


def phrases(tokens: Sequence[int], first_time: int, seconds: float) -> tuple[list[Phrase], float]:
    """Returns the phrases of a window of so many seconds, and how far it was read. ``first_time`` is the token of 0.00 s."""
    pairs = [index for index in range(1, len(tokens)) if tokens[index - 1] >= first_time and tokens[index] >= first_time]
    ends_alone = len(tokens) >= 2 and tokens[-2] < first_time <= tokens[-1]
    if not pairs:
        times = [token for token in tokens if token > first_time]
        end = min((times[-1] - first_time) * TICK, seconds) if times else seconds
        return [Phrase(0.0, end, tuple(tokens))], seconds
    edges = [0, *pairs, *([len(tokens)] if ends_alone else [])]
    parts = [tokens[left:right] for left, right in pairwise(edges)]
    found = [Phrase(_time(part[0], first_time, seconds), _time(part[-1], first_time, seconds), tuple(part)) for part in parts]
    return found, seconds if ends_alone or found[-1].end <= 0 else found[-1].end


def words(pieces: Sequence[str], sizes: Sequence[int], times: Sequence[float], probabilities: Sequence[float]) -> list[tuple[Word, int]]:
    """Returns words with their punctuation, each with its number of tokens.

    ``pieces`` are words as the tokenizer parts them, of ``sizes`` tokens; ``times`` say when each token begins, and when the last ends.
    """
    parts: list[dict[str, Any]] = []
    at = 0
    for piece, size in zip(pieces, sizes, strict=True):
        mean = sum(probabilities[at : at + size]) / max(size, 1)
        parts.append({"word": piece, "tokens": [0] * size, "start": times[at], "end": times[at + size], "probability": mean})
        at += size
    merge_punctuations(parts, _PREPENDED, _APPENDED)
    return [(Word(part["start"], part["end"], part["word"], part["probability"]), len(part["tokens"])) for part in parts if part["tokens"]]


def share(timed: Sequence[tuple[Word, int]], sizes: Sequence[int]) -> list[tuple[Word, ...]]:
    """Returns the words of each phrase, by the number of its text tokens; a word that two share belongs to the first."""
    shares: list[tuple[Word, ...]] = []
    at = 0
    for size in sizes:
        taken, own = 0, []
        while at < len(timed) and taken < size:
            own.append(timed[at][0])
            taken += timed[at][1]
            at += 1
        shares.append(tuple(own))
    return shares


def compression(text: str) -> float:
    """Returns how far a text shrinks when it is compressed: one that repeats itself shrinks a lot."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


def _time(token: int, first_time: int, seconds: float) -> float:
    return min(max(token - first_time, 0) * TICK, seconds)
