"""Where somebody speaks: Silero's voice activity detection (by faster-whisper, which ships it), and spans out of its probabilities.

The network runs over the recording in blocks and carries its state from one to the next, so that an hour needs no more memory than a
minute does.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
from faster_whisper.vad import get_vad_model
from numpy.typing import NDArray

from modelyard_runtime.speech.base import SAMPLE_RATE, Recording, Samples
from modelyard_runtime.speech.sensitivity import Sensitivity

#: Samples that one probability stands for: 32 ms.
STEP = 512
_CONTEXT = 64
_BLOCK = 1024 * STEP
_STATE = (1, 1, 128)
_SHORTEST = 0.1
# Speech ends where the probability falls this far below what it began at.
_HYSTERESIS = 0.15
Probabilities = NDArray[np.float32]
Span = tuple[int, int]


def to_samples(recording: Recording) -> Samples:
    """Returns a recording as models take it."""
    return recording.astype(np.float32) / 32768.0


def speech_probabilities(recording: Recording, check: Callable[[], None]) -> Probabilities:
    """Returns the probability of speech for each `STEP` of a recording; ``check`` raises between blocks when nobody wants it any more."""
    session = get_vad_model().session
    cell, hidden = np.zeros(_STATE, np.float32), np.zeros(_STATE, np.float32)
    tail = np.zeros(_CONTEXT, np.float32)
    found: list[Probabilities] = []
    for start in range(0, len(recording), _BLOCK):
        check()
        block = to_samples(recording[start : start + _BLOCK])
        steps = np.pad(block, (0, -len(block) % STEP)).reshape(-1, STEP)
        before = np.vstack([tail, steps[:-1, -_CONTEXT:]])
        output, hidden, cell = session.run(None, {"input": np.hstack([before, steps]), "h": hidden, "c": cell})
        tail = steps[-1, -_CONTEXT:]
        found.append(np.ravel(output))
    return np.concatenate(found) if found else np.zeros(0, np.float32)


def speech_spans(probabilities: Probabilities, length: int, sensitivity: Sensitivity) -> list[Span]:
    """Returns the spans of speech in samples of a recording of ``length``, padded, in order and without overlaps."""
    shortest = _SHORTEST * SAMPLE_RATE
    spans = [(start, min(end, length)) for start, end in _runs(probabilities, sensitivity)]
    return _padded([span for span in spans if span[1] - span[0] >= min(shortest, length)], length, int(sensitivity.padding * SAMPLE_RATE))


def _runs(probabilities: Probabilities, sensitivity: Sensitivity) -> list[Span]:
    """Returns the runs of speech; a pause shorter than the silence belongs to one."""
    loud = probabilities >= sensitivity.threshold
    quiet = probabilities < max(sensitivity.threshold - _HYSTERESIS, 0.01)
    patience = sensitivity.silence * SAMPLE_RATE / STEP
    runs: list[Span] = []
    start, pause = -1, -1
    for index in range(len(probabilities)):
        if loud[index]:
            start, pause = (index if start < 0 else start), -1
        elif quiet[index] and start >= 0:
            pause = index if pause < 0 else pause
            if index - pause >= patience:
                runs.append((start * STEP, pause * STEP))
                start, pause = -1, -1
    if start >= 0:
        runs.append((start * STEP, (pause if pause >= 0 else len(probabilities)) * STEP))
    return runs


def _padded(spans: list[Span], length: int, padding: int) -> list[Span]:
    """Widens spans on both sides; neighbours share what is between them."""
    edges = [(previous[1], following[0]) for previous, following in pairwise(spans)]
    starts = [max(0, start - padding) for start, _ in spans[:1]] + [max(right - padding, (left + right) // 2) for left, right in edges]
    ends = [min(left + padding, (left + right) // 2) for left, right in edges] + [min(length, end + padding) for _, end in spans[-1:]]
    return list(zip(starts, ends, strict=True))
