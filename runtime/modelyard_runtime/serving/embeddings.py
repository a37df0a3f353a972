"""Embeddings as the endpoints use them: bounds on texts, prompts, the cache, batching; and ranking by the vectors' likeness."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from modelyard.api.errors import InvalidRequest
from numpy.typing import NDArray

from modelyard_runtime.models.embedding import EmbeddingModel, cosines
from modelyard_runtime.models.tokenizing import Encoded, skipping
from modelyard_runtime.progress import Report
from modelyard_runtime.serving.caching import Vector, VectorCache, key_of
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.prompting import NO_PROMPTING, Kind, Prompting, Truncation
from modelyard_runtime.serving.text_service import TextService, load_text_model
from modelyard_runtime.serving.warmup import Way
from modelyard_runtime.settings import ServeSettings

_CUT = Truncation()
Inputs = Sequence[str | list[int]]


def load(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> EmbeddingModel:
    """Loads an encoder. Raises RuntimeFailed."""
    del capabilities, report
    return load_text_model(EmbeddingModel, folder, settings)


def serve(model: EmbeddingModel, context: Context) -> EmbeddingService:
    """Makes the model's service."""
    return EmbeddingService(model, context)


class EmbeddingService(TextService[EmbeddingModel]):
    """An embedding model behind its limiters, its cache and its batcher. Used from one event loop."""

    def __init__(self, model: EmbeddingModel, context: Context):
        super().__init__(model, context, model.embed, packs=model.encoder.packs)
        self._engine = model.encoder.shown()
        self.cache = VectorCache(context.settings.embedding_cache_bytes)

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        prompts = {"prompts": sorted(self.model.layout.prompts)} if self.model.layout.prompts else {}
        return {"max_model_len": self.max_length, "embedding_size": self.model.dimensions, **prompts, "engine": self._engine}

    async def embed(
        self, inputs: Inputs, prompting: Prompting = NO_PROMPTING, truncation: Truncation | None = None
    ) -> tuple[list[NDArray[np.float32]], int]:
        """Returns a vector for each input and the number of tokens. Raises InvalidRequest on inputs that do not fit."""
        self.limiter["embeddings"].check()
        read = await self._read(inputs, prompting, truncation, "input")
        tokens = sum(map(len, read))
        async with self._working("embeddings", tokens):
            vectors = await self._vectors(read, "embeddings")
        return vectors, tokens

    async def score(
        self, pairs: Sequence[tuple[str, str]], *, retrieval: bool, param: str, activated: bool = True, truncation: Truncation | None = None
    ) -> tuple[list[float], int]:
        """Returns the cosine of each pair's vectors and the number of tokens. Each text is embedded once, however many pairs it is in.

        ``retrieval``: the first of a pair is a query, the second a document, and each gets the model's prompt for it.
        """
        del activated  # a cosine is what it is
        self.limiter["rerank"].check()
        sides = [list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True)]
        kinds = [Prompting(kind="query"), Prompting(kind="document")] if retrieval else [Prompting(), Prompting()]
        params = ("query" if retrieval else "text_1", param)
        read = [await self._read(side, kind, truncation, name) for side, kind, name in zip(sides, kinds, params, strict=True)]
        tokens = sum(len(text) for side in read for text in side)
        async with self._working("rerank", tokens):
            vectors = await self._vectors([*read[0], *read[1]], "rerank")
        queries = dict(zip(sides[0], vectors, strict=False))
        documents = dict(zip(sides[1], vectors[len(sides[0]) :], strict=True))
        rows = (np.stack([queries[first] for first, _ in pairs]), np.stack([documents[second] for _, second in pairs]))
        return list(cosines(*rows)), tokens

    def ways(self, capability: str) -> tuple[Way, ...]:
        """Returns the ways of texts through the model: with the prompts of their capability, short, and as long as a batch may be."""
        kinds: tuple[Kind | None, ...] = ("query", "document") if capability == "rerank" else (None,)
        short = Way(f"short {capability}", partial(self._short, capability, kinds))
        return (short, Way("long texts", partial(self._long, capability)))

    async def _short(self, capability: str, kinds: Sequence[Kind | None]) -> None:
        read = [text for kind in kinds for text in await self._read(["Hello"], Prompting(kind=kind), _CUT, "input")]
        await self.batcher.submit(read, capability)

    async def _read(self, inputs: Inputs, prompting: Prompting, truncation: Truncation | None, param: str) -> list[Encoded]:
        prompt = self._prompt(inputs, prompting)
        if not prompt:
            return await self._reader.read(inputs, param=param, truncation=truncation)
        prompted = [prompt + one if isinstance(one, str) else one for one in inputs]
        read = await self._reader.read(prompted, param=param, truncation=truncation)
        if self.model.layout.pools_prompt:
            return read
        skip = self.model.tokenizer.leading(prompt)
        return [skipping(text, skip) if isinstance(one, str) else text for one, text in zip(inputs, read, strict=True)]

    def _prompt(self, inputs: Inputs, prompting: Prompting) -> str:
        """Returns the text to put before texts. Raises InvalidRequest on a prompt that the model lacks, or one for token ids."""
        layout = self.model.layout
        asked = prompting.text if prompting.text is not None else prompting.name
        if asked and any(isinstance(one, list) for one in inputs):
            param = "prompt" if prompting.text is not None else "prompt_name"
            raise InvalidRequest("A prompt goes before text, and the input is token ids. Send text.", param=param, code="invalid_value")
        if prompting.text is not None:
            return prompting.text
        if prompting.name is not None:
            if prompting.name not in layout.prompts:
                known = ", ".join(sorted(layout.prompts)) or "none"
                raise InvalidRequest(
                    f"This model has no prompt of that name; its prompts: {known}.", param="prompt_name", code="invalid_value"
                )
            return layout.prompts[prompting.name]
        return layout.default_prompt if prompting.kind is None else layout.prompt_for(prompting.kind)

    async def _vectors(self, texts: Sequence[Encoded], capability: str) -> list[Vector]:
        """Returns the texts' vectors, from the cache where it has them."""
        if not self.cache.enabled:
            return await self.batcher.submit(texts, capability)
        keys = [key_of(text) for text in texts]
        found = {key: vector for key in keys if (vector := self.cache.get(key)) is not None}
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in found}
        hits = sum(key in found for key in keys)
        self._metrics.cached(hits, len(keys) - hits)
        made = dict(zip(missing, await self.batcher.submit(list(missing.values()), capability), strict=True))
        for key, vector in made.items():
            self.cache.put(key, vector)
        found |= made
        return [found[key] for key in keys]
