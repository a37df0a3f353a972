"""A recording as the windows that a model takes: silence left out, cut where nobody speaks; where somebody always does, with an overlap.

Pure functions of spans and probabilities. A window is made of pieces of the recording, and knows what moment of it each of its own is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelyard_runtime.speech.base import SAMPLE_RATE, WINDOW_SECONDS, Recording, Samples
from modelyard_runtime.speech.vad import STEP, Probabilities, Span, to_samples

#: What two windows share where no pause could be found.
OVERLAP = 4 * SAMPLE_RATE
# A window ends in a clear pause of half a second, at best before the model's encoder is full. A model that may have more is given the
# speech up to the next such pause; only what is too long even so is cut in a short one, where sentences need not end.
# A pause is some steps whose mean probability of speech is low; it is looked for in so many samples at once, and not close to the end.
_USUAL, _SEARCHED, _REST = WINDOW_SECONDS * SAMPLE_RATE, 12 * SAMPLE_RATE, 5 * SAMPLE_RATE
_CLEAR_STEPS, _PAUSE_STEPS, _PAUSE_PROBABILITY = 16, 5, 0.35


@dataclass(frozen=True, slots=True)
class Window:
    """Pieces of a recording, in samples. The first ``overlap`` samples are also the last ones of the window before."""

    pieces: tuple[Span, ...]
    overlap: int = 0

    @property
    def length(self) -> int:
        """Its samples."""
        return sum(end - start for start, end in self.pieces)

    @property
    def shared(self) -> tuple[float, float]:
        """The seconds of the recording that the window before has too."""
        start = self.pieces[0][0]
        return start / SAMPLE_RATE, (start + self.overlap) / SAMPLE_RATE

    def samples(self, recording: Recording) -> Samples:
        """Returns its sound."""
        return to_samples(np.concatenate([recording[start:end] for start, end in self.pieces]))

    def moment(self, seconds: float, *, is_end: bool = False) -> float:
        """Returns the second of the recording for one of the window; at a seam an end belongs to what is before it."""
        position = seconds * SAMPLE_RATE
        for start, end in self.pieces:
            size = end - start
            if position < size or (is_end and position == size):
                return (start + max(position, 0)) / SAMPLE_RATE
            position -= size
        return self.pieces[-1][1] / SAMPLE_RATE


def plan(spans: Sequence[Span], probabilities: Probabilities, longest: int) -> list[Window]:
    """Returns the windows of the spans of speech: in order, each at most ``longest`` samples, all of the speech in them."""
    windows: list[Window] = []
    for span in spans:
        for piece, overlap in _cut(span, probabilities, longest):
            last = windows[-1] if windows and not overlap else None
            if last is not None and last.length + piece[1] - piece[0] <= _USUAL:
                windows[-1] = Window((*last.pieces, piece), last.overlap)
            else:
                windows.append(Window((piece,), overlap))
    return windows


def _cut(span: Span, probabilities: Probabilities, longest: int) -> Iterator[tuple[Span, int]]:
    """Yields pieces of a span that fit a window, each with what it shares with the piece before."""
    start, end = span
    overlap = 0
    while end - start > _USUAL:
        cut, following = _end(start, end, probabilities, longest)
        if cut == end:
            break
        yield (start, cut), overlap
        start, overlap = cut - following, following
    yield (start, end), overlap


def _end(start: int, end: int, probabilities: Probabilities, longest: int) -> tuple[int, int]:
    """Returns where a piece that begins at ``start`` ends, and what the next one shares with it: a clear pause, a short one, or none."""
    limit = start + longest
    for first in range(start + _USUAL - _SEARCHED, limit, _SEARCHED):
        cut = _quietest(first, min(first + _SEARCHED, limit, end - _REST), probabilities, _CLEAR_STEPS)
        if cut is not None:
            return cut, 0
    if end <= limit:
        return end, 0
    cut = _quietest(limit - _SEARCHED, limit, probabilities, _PAUSE_STEPS)
    return (limit, OVERLAP) if cut is None else (cut, 0)


def _quietest(first: int, last: int, probabilities: Probabilities, size: int) -> int | None:
    """Returns the best sample to cut at between two, in the middle of a pause of ``size`` steps; None where there is none."""
    steps = probabilities[first // STEP : max(first, last) // STEP]
    if len(steps) < size:
        return None
    means = np.convolve(steps, np.ones(size) / size, "valid")
    if means.min() >= _PAUSE_PROBABILITY:
        return None
    # Of equal pauses the last: windows as long as can be.
    quietest = len(means) - 1 - int(np.argmin(means[::-1]))
    return (first // STEP + quietest) * STEP + size * STEP // 2
