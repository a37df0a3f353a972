"""Reranking, scoring and classification by sequence-classification models, as the endpoints use them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.models.ranking import RankingModel, activate
from modelyard_runtime.models.tokenizing import Text
from modelyard_runtime.progress import Report
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.prompting import Truncation
from modelyard_runtime.serving.text_service import TextService, load_text_model
from modelyard_runtime.serving.warmup import Way
from modelyard_runtime.settings import ServeSettings


def load(folder: Path, settings: ServeSettings, capabilities: tuple[str, ...], report: Report) -> RankingModel:
    """Loads a sequence-classification model. Raises RuntimeFailed."""
    del report
    model = load_text_model(RankingModel, folder, settings)
    if "rerank" in capabilities and len(model.labels) != 1:
        raise ArgumentsInvalid(
            f"--capability=rerank: a reranker has one label, and this model has {len(model.labels)}", "serve it with --capability=classify"
        )
    return model


def serve(model: RankingModel, context: Context) -> RankingService:
    """Makes the model's service."""
    return RankingService(model, context)


class RankingService(TextService[RankingModel]):
    """A sequence-classification model behind its limiters and its batcher. Used from one event loop."""

    def __init__(self, model: RankingModel, context: Context):
        super().__init__(model, context, model.judge, packs=model.packs)
        self._engine = model.encoder.shown()

    def describe(self) -> dict[str, Any]:
        """Returns what ``/v1/models`` adds about the model."""
        return {"max_model_len": self.max_length, "labels": self.model.labels, "engine": self._engine}

    async def score(
        self, pairs: Sequence[tuple[str, str]], *, retrieval: bool, param: str, activated: bool = True, truncation: Truncation | None = None
    ) -> tuple[list[float], int]:
        """Returns the score of each pair and the number of tokens. Raises InvalidRequest on pairs that do not fit."""
        del retrieval  # a cross-encoder reads both texts at once, the same way
        scores, tokens = await self._judge(pairs, "rerank", param, activated, truncation)
        return scores[:, 0].tolist(), tokens

    async def classify(
        self, inputs: Sequence[Text | list[int]], *, activated: bool = True, truncation: Truncation | None = None
    ) -> tuple[NDArray[np.float32], int]:
        """Returns the probability of each label, [inputs, labels], and the number of tokens. Raises InvalidRequest."""
        return await self._judge(inputs, "classify", "input", activated, truncation)

    def ways(self, capability: str) -> tuple[Way, ...]:
        """Returns the ways of texts through the model: pairs where it ranks, texts where it classifies, short and as long as may be."""
        short: Text = ("Hello", "word") if capability == "rerank" else "Hello"
        return (Way(f"short {capability}", partial(self._short, short, capability)), Way("long texts", partial(self._long, capability)))

    async def _short(self, text: Text, capability: str) -> None:
        await self.batcher.submit(await self._reader.read([text], param="input", truncation=Truncation()), capability)

    async def _judge(
        self, inputs: Sequence[Text | list[int]], capability: str, param: str, activated: bool, truncation: Truncation | None
    ) -> tuple[NDArray[np.float32], int]:
        self.limiter[capability].check()
        read = await self._reader.read(inputs, param=param, truncation=truncation)
        tokens = sum(map(len, read))
        async with self._working(capability, tokens):
            scores = np.stack(await self.batcher.submit(read, capability))
        return (activate(scores, self.model.activation) if activated else scores), tokens
