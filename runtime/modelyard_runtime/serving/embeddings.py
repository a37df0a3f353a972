"""Embeddings as the endpoint uses them: bounds on texts, the limiter, batching, metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from modelyard.api.errors import InternalError, InvalidRequest
from numpy.typing import NDArray

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.metrics import Load, Metrics, Stopwatch
from modelyard_runtime.models.embedding import EmbeddingModel
from modelyard_runtime.models.loading import choose_device, choose_dtype
from modelyard_runtime.progress import Report
from modelyard_runtime.serving.batching import Batcher
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.limiter import CHARACTERS_PER_TOKEN, Limiter
from modelyard_runtime.settings import ServeSettings

# Below this many characters texts are tokenised on the event loop: it takes less than a thread's round trip.
_SHORT = 4096
_CONCURRENCY = 64


def load(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> EmbeddingModel:
    """Loads an encoder. Raises RuntimeFailed."""
    del capabilities, report
    device = choose_device(settings.device)
    model = EmbeddingModel(folder, dtype=choose_dtype(settings.dtype, device), device=device)
    if settings.max_model_length is not None and settings.max_model_length > model.max_length:
        raise ArgumentsInvalid(f"--max-model-length: this model takes {model.max_length} tokens at most, not {settings.max_model_length}")
    return model


def serve(model: EmbeddingModel, context: Context) -> EmbeddingService:
    """Makes the model's service."""
    settings = context.settings
    bounds = (model.max_length, settings.max_model_length, settings.max_prompt_tokens)
    return EmbeddingService(
        model,
        context.limiter(_CONCURRENCY),
        Batcher(model.embed, budget=settings.max_batch_tokens),
        max_length=min(bound for bound in bounds if bound is not None),
        metrics=context.metrics,
    )


class EmbeddingService:
    """An embedding model behind its limiter and batcher. Used from one event loop."""

    def __init__(self, model: EmbeddingModel, limiter: Limiter, batcher: Batcher, *, max_length: int, metrics: Metrics):
        self.model = model
        self.limiter = limiter
        self.max_length = max_length
        self.batcher = batcher
        self._metrics = metrics

    def load(self) -> Load:
        """Returns what is going on."""
        return Load(self.limiter.working, self.limiter.waiting)

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        return {"max_model_len": self.max_length}

    async def stop(self) -> None:
        """Ends the batcher's thread."""
        await self.batcher.stop()

    async def embed(self, inputs: Sequence[str | list[int]]) -> tuple[list[NDArray[np.float32]], int]:
        """Returns a vector for each input and the number of tokens. Raises InvalidRequest on inputs that do not fit."""
        self.limiter.check()
        ids = await self._encode(inputs)
        tokens = sum(map(len, ids))
        watch = Stopwatch(self._metrics, tokens)
        try:
            async with self.limiter.slot():
                watch.begun()
                vectors = await self._vectors(ids)
                watch.finished("stop")
                return vectors, tokens
        finally:
            watch.ended()

    async def warm_up(self) -> None:
        """Computes a short text and a batch of long ones."""
        long = self.model.tokenize(["word " * (self.max_length // 2)])[0][: self.max_length]
        await self._vectors(self.model.tokenize(["warm-up"]))
        await self._vectors([long, long[: self.max_length // 2]])

    async def _vectors(self, ids: Sequence[list[int]]) -> list[NDArray[np.float32]]:
        vectors = await self.batcher.submit(ids)
        if not all(np.isfinite(vector).all() for vector in vectors):
            raise InternalError("The model's values for this text are not numbers: they overflow its data type. Change the text.")
        return vectors

    async def _encode(self, inputs: Sequence[str | list[int]]) -> list[list[int]]:
        texts = [text for text in inputs if isinstance(text, str)]
        for index, value in enumerate(inputs):
            # Tokenising takes a second for each MB, so what cannot fit is refused by its characters.
            if isinstance(value, str) and len(value) > self.max_length * CHARACTERS_PER_TOKEN:
                raise self._too_long(index, f"{len(value)} characters")
        size = sum(map(len, texts))
        encoded = iter(self.model.tokenize(texts) if size < _SHORT else await asyncio.to_thread(self.model.tokenize, texts))
        ids = [next(encoded) if isinstance(value, str) else self._complete(index, value) for index, value in enumerate(inputs)]
        for index, tokens in enumerate(ids):
            if len(tokens) > self.max_length:
                raise self._too_long(index, str(len(tokens)))
        return ids

    def _too_long(self, index: int, size: str) -> InvalidRequest:
        return InvalidRequest(
            f"This model's maximum input length is {self.max_length} tokens, and input {index} has {size}. Shorten it.",
            param="input",
            code="context_length_exceeded",
        )

    def _complete(self, index: int, ids: list[int]) -> list[int]:
        if max(ids) >= self.model.vocabulary:
            raise InvalidRequest(
                f"Token ids of this model are below {self.model.vocabulary}, and input {index} has {max(ids)}. Send text.",
                param="input",
                code="invalid_value",
            )
        return self.model.complete(ids)
