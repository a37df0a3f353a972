"""Speech to text as the endpoints use it: from a file to segments, behind its limiter.

file ─▶ decode, find speech (threads of their own) ─▶ windows ─▶ the model's queue, a few at a time ─▶ segments, in order
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing
from functools import partial
from typing import Any

from modelyard.api.errors import InvalidRequest
from transformers.models.whisper.tokenization_whisper import LANGUAGES

from modelyard_runtime.hardware import helpers
from modelyard_runtime.loads import Load
from modelyard_runtime.logs import run_on
from modelyard_runtime.metrics import Metrics, Stopwatch
from modelyard_runtime.serving.limiter import Limiter
from modelyard_runtime.serving.reading import read
from modelyard_runtime.serving.warmup import Way
from modelyard_runtime.serving.window_queue import WindowQueue
from modelyard_runtime.serving.wish import Heard, Wish
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.speech.base import Segment, SpeechModel, Task
from modelyard_runtime.speech.listening import Listened, Patience, listen, sample_file
from modelyard_runtime.speech.vad import to_samples

#: Whisper's encoder makes one position of 20 ms of sound: these are its input tokens.
_TOKENS_PER_SECOND = 50


class TranscriptionService:
    """A speech model behind its limiter and queue. Used from one event loop."""

    max_length = 0

    def __init__(self, model: SpeechModel, limiter: Limiter, *, settings: ServeSettings, metrics: Metrics):
        self.model = model
        self.limiter = limiter
        self._settings = settings
        self._metrics = metrics
        self._queue = WindowQueue(model)
        self._listeners = ThreadPoolExecutor(helpers(model.device), thread_name_prefix="listen")

    def load(self) -> Load:
        """Returns what is going on."""
        working, waiting = self.limiter.working, self.limiter.waiting
        return Load(working, waiting, by_capability={"transcription": (working, waiting)})

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        bound = self._settings.max_audio_seconds
        return {"languages": list(self.model.languages), "max_audio_seconds": bound, "engine": self.model.shown()}

    def ways(self, capability: str) -> tuple[Way, ...]:
        """Returns the ways of a recording through the model: read as text, and with the times of its words."""
        del capability  # it is one
        return (Way("speech", partial(self._rehearse, words=False)), Way("words", partial(self._rehearse, words=True)))

    async def _rehearse(self, *, words: bool) -> None:
        """Decodes a second of tones, looks for speech in it, and reads it; what language it is in, where there are several."""
        listened = await self._listen(sample_file(), Wish())
        samples = to_samples(listened.recording)
        if len(self.model.languages) > 1 and not words:
            await self._queue.detect_language(samples)
        await self._queue.submit(samples, Task(self.model.languages[0], temperatures=(0.0,), words=words))

    async def stop(self) -> None:
        """Ends the threads."""
        await self._queue.stop()
        await asyncio.to_thread(self._listeners.shutdown, wait=True)

    def check(self, wish: Wish) -> None:
        """Raises what a request can be refused for unheard: InvalidRequest, TooManyRequests or Unavailable."""
        languages = self.model.languages
        if wish.translate and len(languages) == 1:
            raise InvalidRequest(
                f"This model understands '{languages[0]}' alone and translates nothing. Ask /v1/audio/transcriptions, or another model.",
                param="model",
                code="unsupported_capability",
            )
        if wish.language is not None and wish.language not in languages:
            known = f"'{languages[0]}'" if len(languages) == 1 else f"ISO 639-1 codes: {', '.join(languages)}"
            raise InvalidRequest(f"Invalid 'language': this model understands {known}.", param="language", code="invalid_value")
        self.limiter.check()

    async def transcribe(self, data: bytes, wish: Wish) -> AsyncGenerator[Heard | list[Segment], None]:
        """Yields what is known of a file, then the segments of one window after the other.

        Raises InvalidRequest on a wish that the model cannot grant and on a file that cannot be read; what the limiter raises.
        """
        self.check(wish)
        prompt_tokens = self.model.count_tokens(wish.prompt)
        watch = Stopwatch(self._metrics, prompt_tokens, "transcription")
        try:
            async with self.limiter.slot():
                watch.begun()
                listened = await self._listen(data, wish)
                self._metrics.heard(listened.seconds)
                language = await self._language(listened, wish)
                audio_tokens = math.ceil(listened.seconds * _TOKENS_PER_SECOND)
                yield Heard(listened.seconds, language, LANGUAGES[language], audio_tokens, prompt_tokens)
                async with aclosing(read(listened, wish.task(language), self._queue, self.model.batch)) as windows:
                    async for segments in windows:
                        watch.tokens(max(1, sum(len(segment.tokens) for segment in segments)))
                        yield segments
                watch.finished("stop")
        finally:
            watch.ended()
            self._metrics.answered(watch.generated)

    async def _listen(self, data: bytes, wish: Wish) -> Listened:
        patience = Patience(self._settings.audio_timeout.total_seconds())
        bounds = {"max_seconds": self._settings.max_audio_seconds, "longest": self.model.longest}
        work = partial(listen, data, **bounds, sensitivity=wish.sensitivity, check=patience)
        try:
            return await run_on(self._listeners, work)
        finally:
            patience.abandon()

    async def _language(self, listened: Listened, wish: Wish) -> str:
        languages = self.model.languages
        if wish.language is not None or len(languages) == 1 or not listened.windows:
            return wish.language or languages[0]
        return await self._queue.detect_language(listened.windows[0].samples(listened.recording))
