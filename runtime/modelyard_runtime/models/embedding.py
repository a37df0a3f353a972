"""Sentence embeddings by any Transformers encoder or decoder, in the folder layout of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import AutoModel

from modelyard_runtime.errors import WeightsNotFound
from modelyard_runtime.models.encoder import Batch, Encoder, by_length, load_model
from modelyard_runtime.models.pooling import pool
from modelyard_runtime.models.sentence import DenseStep, Layout, read_layout
from modelyard_runtime.models.tokenizing import TextTokenizer


class EmbeddingModel:
    """An encoder with its tokenizer, its pooling and what follows. `embed` belongs on one thread; the rest may be called from any."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device):
        """Loads a folder. Raises UnsupportedModel, WeightsNotFound or OutOfMemory."""
        self.layout: Layout = read_layout(folder)
        self.tokenizer = TextTokenizer(folder, lower=self.layout.lower)
        model = load_model(AutoModel, folder, dtype=dtype, device=device, may_lack=("pooler.",))
        if hasattr(model, "pooler"):
            model.pooler = None  # a layer for the first token alone, which no pooling reads
        limit = self.layout.max_length or self.tokenizer.limit
        self.encoder = Encoder(model, pad=self.tokenizer.pad, device=device, max_length=limit)
        self.max_length = min(bound for bound in (limit, self.tokenizer.limit, self.encoder.longest) if bound)
        self.vocabulary = int(self.encoder.config.vocab_size)
        self._dense = [_dense(folder, step, device) for step in self.layout.dense]
        self.dimensions = self._size()

    @torch.inference_mode()
    def embed(self, batch: Batch) -> NDArray[np.float32]:
        """Returns the vectors of a batch, shape [len(batch), dimensions]."""
        return by_length(batch, self._vectors)

    def _vectors(self, batch: Batch) -> Tensor:
        hidden = self.encoder.hidden(batch).without([text.skip for text in batch])
        vectors = pool(hidden, self.layout.poolings)
        for layer in self._dense:
            vectors = layer(vectors)
        return normalize(vectors, dim=-1) if self.layout.normalize else vectors

    def _size(self) -> int:
        if self._dense:
            return int(self._dense[-1][0].out_features)  # type: ignore[arg-type]
        return int(self.encoder.config.hidden_size) * len(self.layout.poolings)


def _dense(folder: Path, step: DenseStep, device: torch.device) -> nn.Sequential:
    """Reads a dense layer's weights. Raises WeightsNotFound."""
    path = folder / step.path / "model.safetensors"
    if not path.is_file():
        raise WeightsNotFound(f"{path} is missing", "provide *.safetensors; pickled weights are not loaded")
    weights = load_file(path)
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
    return nn.Sequential(linear, getattr(nn, step.activation)()).to(device).requires_grad_(False)


def cosines(queries: NDArray[np.float32], documents: NDArray[np.float32]) -> Sequence[float]:
    """Returns the cosine of each row of one matrix with the same row of the other, or with its only row."""
    lengths = np.linalg.norm(queries, axis=-1) * np.linalg.norm(documents, axis=-1)
    likeness: list[float] = ((queries * documents).sum(-1) / np.maximum(lengths, 1e-12)).tolist()
    return likeness
