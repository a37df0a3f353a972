"""From a file to what there is to read in it. Blocks for as long as it takes, on a thread of the caller's."""

from __future__ import annotations

import io
import threading
import time
import wave
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from modelyard.api.errors import InvalidRequest

from modelyard_runtime.speech.base import SAMPLE_RATE, Recording, Segment, Word
from modelyard_runtime.speech.decode import decode
from modelyard_runtime.speech.sensitivity import Sensitivity
from modelyard_runtime.speech.vad import STEP, Probabilities, speech_probabilities, speech_spans
from modelyard_runtime.speech.windows import Window, plan


class NotWanted(Exception):
    """Nobody waits for the work any more."""


class Patience:
    """Says when decoding must end: after so many seconds, or when the client has left.

    The seconds are its thread's on the processor, from the first call on: that others are decoded meanwhile is no fault of the file.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.thread_time):
        self._seconds = seconds
        self._clock = clock
        self._deadline: float | None = None
        self._abandoned = threading.Event()

    def abandon(self) -> None:
        """The result is not wanted any more. May be called from any thread."""
        self._abandoned.set()

    def __call__(self) -> None:
        """Raises NotWanted, or InvalidRequest when the time is over."""
        if self._abandoned.is_set():
            raise NotWanted
        if self._deadline is None:
            self._deadline = self._clock() + self._seconds
        if self._clock() > self._deadline:
            message = f"The audio took longer than {self._seconds:g} s to decode, which is the limit. Send a shorter or simpler file."
            raise InvalidRequest(message, param="file", code="invalid_audio")


@dataclass(frozen=True, slots=True)
class Listened:
    """A recording, where somebody speaks in it, and the windows to read."""

    recording: Recording
    probabilities: Probabilities
    windows: list[Window]

    @property
    def seconds(self) -> float:
        """The recording's length."""
        return len(self.recording) / SAMPLE_RATE

    def place(self, window: Window, segment: Segment) -> Segment:
        """Returns a segment of a window with the recording's times, and with a word on silence where the model has none."""
        words = tuple(_place_word(window, word) for word in segment.words)
        start = words[0].start if words else window.moment(segment.start)
        end = max(start, words[-1].end if words else window.moment(segment.end, is_end=True))
        silence = segment.no_speech_prob
        if silence is None:
            steps = self.probabilities[int(start * SAMPLE_RATE) // STEP : int(end * SAMPLE_RATE) // STEP + 1]
            silence = 1.0 - float(steps.mean()) if len(steps) else 0.0
        return segment.moved(start, end, words, silence)


def listen(data: bytes, *, max_seconds: float, longest: int, sensitivity: Sensitivity, check: Patience) -> Listened:
    """Decodes a file and looks for speech, in windows of at most ``longest`` seconds. Raises InvalidRequest, or NotWanted."""
    recording = decode(data, max_seconds=max_seconds, check=check)
    probabilities = speech_probabilities(recording, check)
    spans = speech_spans(probabilities, len(recording), sensitivity)
    return Listened(recording, probabilities, plan(spans, probabilities, longest * SAMPLE_RATE))


def sample_file(seconds: float = 1.0) -> bytes:
    """Returns a WAV file of tones that rise and fall like a voice, for warming up."""
    times = np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    sound = sum(np.sin(2 * np.pi * 140 * harmonic * times) / harmonic for harmonic in range(1, 8)) * np.sin(2 * np.pi * 3 * times)
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLE_RATE)
        writer.writeframes((sound * 8000).astype("<i2").tobytes())
    return file.getvalue()


def _place_word(window: Window, word: Word) -> Word:
    """Returns a word with the recording's times, both from the piece that its middle lies in."""
    middle = (word.start + word.end) / 2
    offset = window.moment(middle) - middle
    return Word(word.start + offset, word.end + offset, word.text, word.probability)
