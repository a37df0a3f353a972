"""A recording as the windows that a model takes: silence left out, cut where nobody speaks; where somebody always does, with an overlap.

Pure functions of spans and probabilities. A window is made of pieces of the recording, and knows what moment of it each of its own is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from modelyard_runtime.speech.base import SAMPLE_RATE, Recording, Samples
from modelyard_runtime.speech.vad import STEP, Probabilities, Span, to_samples

#: What two windows share where no pause could be found.
OVERLAP = 4 * SAMPLE_RATE
# A cut is looked for in the last part of a window. A pause is some steps whose mean probability of speech is low.
_SEARCHED = 12 * SAMPLE_RATE
_PAUSE_STEPS, _PAUSE_PROBABILITY = 5, 0.35


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
            if last is not None and last.length + piece[1] - piece[0] <= longest:
                windows[-1] = Window((*last.pieces, piece), last.overlap)
            else:
                windows.append(Window((piece,), overlap))
    return windows


def _cut(span: Span, probabilities: Probabilities, longest: int) -> Iterator[tuple[Span, int]]:
    """Yields pieces of a span that fit a window, each with what it shares with the piece before."""
    start, end = span
    overlap = 0
    while end - start > longest:
        cut, is_pause = _quietest(start + longest - _SEARCHED, start + longest, probabilities)
        yield (start, cut), overlap
        overlap = 0 if is_pause else OVERLAP
        start = cut - overlap
    yield (start, end), overlap


def _quietest(first: int, last: int, probabilities: Probabilities) -> tuple[int, bool]:
    """Returns the best sample to cut at between two, and whether it lies in a pause; where it does not, the last one is taken."""
    steps = probabilities[first // STEP : last // STEP]
    means = np.convolve(steps, np.ones(_PAUSE_STEPS) / _PAUSE_STEPS, "valid")
    if not len(means) or means.min() >= _PAUSE_PROBABILITY:
        return last, False
    # Of equal pauses the last: windows as long as can be.
    quietest = len(means) - 1 - int(np.argmin(means[::-1]))
    return (first // STEP + quietest) * STEP + _PAUSE_STEPS * STEP // 2, True
