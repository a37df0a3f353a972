"""The contract between what hears and what serves: tasks in, segments out. Times are in seconds, samples 16 kHz mono."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
#: What Whisper's encoder takes at once.
WINDOW_SECONDS = 30
#: What is given at once to a model that finds its own way through it: long enough that cuts are rare, short enough not to hold up others.
LONG_WINDOW_SECONDS = 120
#: Whisper's own ladder: a window whose text is repetitive or unlikely is tried again, hotter.
FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
COMPRESSION_LIMIT, LOGPROB_LIMIT, NO_SPEECH_LIMIT = 2.4, -1.0, 0.6

#: Shape [samples], as decoded; a tenth of a gigabyte holds 54 minutes.
Recording = NDArray[np.int16]
#: Shape [samples], -1 … 1, as models take it.
Samples = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Task:
    """How to read windows; those of equal tasks may be computed together.

    ``language`` is an ISO 639-1 code; ``words`` asks for the times of words.
    """

    language: str
    translate: bool = False
    prompt: str = ""
    temperatures: tuple[float, ...] = FALLBACK
    words: bool = False


@dataclass(frozen=True, slots=True)
class Word:
    """A word with the space and the punctuation that belong to it."""

    start: float
    end: float
    text: str
    probability: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A phrase. ``no_speech_prob`` is None where the model does not say; ``words`` are there when the task asked for them."""

    start: float
    end: float
    text: str
    tokens: tuple[int, ...]
    temperature: float
    avg_logprob: float
    compression_ratio: float
    no_speech_prob: float | None
    words: tuple[Word, ...] = ()

    def moved(self, start: float, end: float, words: tuple[Word, ...], no_speech_prob: float) -> Segment:
        """Returns it with other times."""
        return replace(self, start=start, end=end, words=words, no_speech_prob=no_speech_prob)


class SpeechModel(Protocol):
    """A model in memory. Its methods block, and are called from one thread at a time."""

    #: Kind of device that computes it, as PyTorch calls it.
    device: str
    #: ISO 639-1 codes that it understands; one alone cannot be translated from.
    languages: tuple[str, ...]
    #: Windows that it computes at once with profit.
    batch: int
    #: Seconds that a window may last: `WINDOW_SECONDS`, or more where the model follows its own timestamps through a longer one.
    longest: int

    def shown(self) -> dict[str, Any]:
        """Returns what the model's status says of how it is computed."""
        ...

    def count_tokens(self, text: str) -> int:
        """Returns the length of a text in tokens."""
        ...

    def detect_language(self, samples: Samples) -> str:
        """Returns the code of the language spoken in at most a window of samples."""
        ...

    def transcribe(self, windows: Sequence[Samples], task: Task) -> list[list[Segment]]:
        """Returns the segments of each window of at most `longest` seconds, with times from the window's start."""
        ...
