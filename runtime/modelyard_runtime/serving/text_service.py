"""What embeddings and ranking have in common: texts, read within bounds and computed in batches, behind a limiter for each capability."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.hardware import helpers
from modelyard_runtime.loads import Load
from modelyard_runtime.metrics import Stopwatch
from modelyard_runtime.models.encoder import Encoder
from modelyard_runtime.models.loading import choose_device, choose_dtype
from modelyard_runtime.models.tokenizing import Encoded, TextTokenizer
from modelyard_runtime.serving.batching import Batcher, Budget
from modelyard_runtime.serving.bounds import Bounds
from modelyard_runtime.serving.codec import TextCodec
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.texts import Reader
from modelyard_runtime.serving.workers import Workers
from modelyard_runtime.settings import ServeSettings

_CONCURRENCY = 64
#: Tokens of the shortest text that any tokenizer can cut a longer one to, with what it puts around it.
_SHORTEST = 8


class TextModel(Protocol):
    """An encoder with its tokenizer. ``max_length`` is in tokens; token ids are below ``vocabulary``."""

    tokenizer: TextTokenizer
    encoder: Encoder
    max_length: int
    vocabulary: int


M = TypeVar("M", bound=TextModel)


def load_text_model(kind: Callable[..., M], folder: Path, settings: ServeSettings) -> M:
    """Loads a model of texts. Raises RuntimeFailed; ArgumentsInvalid when texts shall be longer than it takes."""
    device = choose_device(settings.device)
    model = kind(folder, dtype=choose_dtype(settings.dtype, device), device=device)
    asked = settings.max_model_length
    if asked is not None and asked > model.max_length:
        raise ArgumentsInvalid(f"--max-model-length: this model takes {model.max_length} tokens at most, not {asked}")
    return model


class TextService(Generic[M]):
    """A model of texts behind its limiters and its batcher. Used from one event loop.

    ``compute`` is what batches are for; ``packs`` says whether their texts are laid end to end, else they are padded.
    """

    def __init__(self, model: M, context: Context, compute: Callable[[Sequence[Encoded]], NDArray[Any]], *, packs: bool):
        settings = context.settings
        bounds = (model.max_length, settings.max_model_length, settings.max_prompt_tokens)
        self.model = model
        self.limiter = context.limiters(_CONCURRENCY)
        self.max_length = min(bound for bound in bounds if bound is not None)
        self._batch_tokens = _batch_tokens(settings, model.encoder.device.type)
        self.batcher: Batcher[Encoded] = Batcher(compute, budget=Budget(self._batch_tokens), padded=not packs, watch=context.metrics)
        timeout, waiting = settings.queue_timeout.total_seconds(), context.admitted(_CONCURRENCY)
        self._readers = Workers("text-reader", helpers(model.encoder.device.type), waiting=waiting, timeout=timeout)
        self._reader = Reader(model.tokenizer, self._readers, vocabulary=model.vocabulary, max_length=self.max_length)
        self.codec = TextCodec(model.tokenizer, Bounds(self.max_length, model.vocabulary), self._readers)
        self._metrics = context.metrics
        self.reports_usage = settings.report_usage

    def load(self) -> Load:
        """Returns what is going on."""
        return Load(self.limiter.working, self.limiter.waiting, by_capability=self.limiter.by_capability())

    async def beginnings(self, texts: Sequence[str], tokens: int, *, param: str) -> list[str]:
        """Returns the first ``tokens`` of each text. Raises InvalidRequest, naming ``param``, on what cannot be read."""
        return await self._reader.beginnings(texts, tokens, param=param)

    async def stop(self) -> None:
        """Ends the batcher's thread and the readers'."""
        await self.batcher.stop()
        await asyncio.to_thread(self._readers.close)

    @asynccontextmanager
    async def _working(self, capability: str, tokens: int) -> AsyncIterator[None]:
        """Waits for the turn of a request of so many tokens, and measures the block."""
        watch = Stopwatch(self._metrics, tokens, capability)
        try:
            async with self.limiter[capability].slot():
                watch.begun()
                yield
                watch.finished("stop")
        finally:
            watch.ended()

    async def _long(self, capability: str) -> None:
        """Warms up with texts as long as a batch may be, and of different lengths."""
        length = min(self.max_length, self._batch_tokens)
        long, half = (self.model.tokenizer.cut("word " * length, size) for size in (length, max(length // 2, min(length, _SHORTEST))))
        await self.batcher.submit([long, half, half], capability)


def _batch_tokens(settings: ServeSettings, device: str) -> int:
    """Returns the tokens of a batch: a processor is no faster with more of them, and the next request would wait longer."""
    return settings.max_batch_tokens or (2048 if device == "cpu" else 16_384)
