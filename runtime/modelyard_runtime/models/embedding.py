"""Sentence embeddings by any Transformers encoder, in the folder layout of sentence-transformers.

``modules.json`` lists the steps after the encoder: pooling (``1_Pooling/config.json``) and normalisation. A folder without it gets mean
pooling and normalisation. Layout: https://www.sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound

Pool = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Layout:
    """What follows the encoder: the pooling, whether vectors get length 1, and the longest text in tokens (None: the encoder's own)."""

    pooling: str
    normalize: bool
    max_length: int | None


def read_layout(folder: Path) -> Layout:
    """Reads sentence-transformers' files. Raises UnsupportedModel on modules or poolings that are not known."""
    max_length = _json(folder / "sentence_bert_config.json", {}).get("max_seq_length")
    modules = _json(folder / "modules.json", None)
    if modules is None:
        return Layout("mean", True, max_length)
    pooling, normalize = "mean", False
    for module in modules:
        kind = str(module["type"]).rsplit(".", 1)[-1]
        if kind == "Pooling":
            pooling = _pooling(_json(folder / module["path"] / "config.json", {}))
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise UnsupportedModel(
                f"the sentence-transformers module {kind!r} is not supported", "use a model of Transformer, Pooling and Normalize"
            )
    return Layout(pooling, normalize, max_length)


class EmbeddingModel:
    """An encoder with its tokenizer and pooling. `embed` belongs on one thread; the rest may be called from any."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device):
        """Loads a folder. Raises UnsupportedModel or WeightsNotFound."""
        self._layout = read_layout(folder)
        self._pool = POOLINGS[self._layout.pooling]
        self._device = device
        self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        self._model: Any = _load(folder, dtype, device)
        config = self._model.config
        self.vocabulary = int(config.vocab_size)
        self.dimensions = int(config.hidden_size)
        self.max_length = _max_length(self._layout.max_length, config, self._tokenizer)
        self._prefix, self._suffix = _specials(self._tokenizer)
        self._pad = self._tokenizer.pad_token_id or 0

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, special tokens included, never cut."""
        if not texts:
            return []
        ids: list[list[int]] = self._tokenizer(list(texts), add_special_tokens=True, truncation=False, padding=False, verbose=False)[
            "input_ids"
        ]
        return ids

    def complete(self, ids: list[int]) -> list[int]:
        """Returns a client's token ids with the model's special tokens around them, unless they are there."""
        start, end = len(self._prefix), len(self._suffix)
        if ids[:start] == self._prefix and (not end or ids[-end:] == self._suffix):
            return ids
        return [*self._prefix, *ids, *self._suffix]

    @torch.inference_mode()
    def embed(self, batch: Sequence[list[int]]) -> NDArray[np.float32]:
        """Returns the vectors of a batch of token ids, shape [len(batch), dimensions], padded to its longest."""
        longest = max(map(len, batch))
        ids = torch.full((len(batch), longest), self._pad, dtype=torch.long)
        mask = torch.zeros((len(batch), longest), dtype=torch.long)
        for row, tokens in enumerate(batch):
            ids[row, : len(tokens)] = torch.tensor(tokens)
            mask[row, : len(tokens)] = 1
        mask = mask.to(self._device)
        hidden = self._model(input_ids=ids.to(self._device), attention_mask=mask).last_hidden_state
        vectors = self._pool(hidden.float(), mask)
        if self._layout.normalize:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        return vectors.cpu().numpy()


def _mean(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * weights).sum(1) / weights.sum(1)


def _cls(hidden: Tensor, mask: Tensor) -> Tensor:
    del mask
    return hidden[:, 0]


def _last(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden), device=hidden.device), mask.sum(1) - 1]


def _max(hidden: Tensor, mask: Tensor) -> Tensor:
    return hidden.masked_fill(mask.unsqueeze(-1) == 0, torch.finfo(hidden.dtype).min).amax(1)


#: Reduces hidden states [batch, tokens, size], padded on the right, and their mask [batch, tokens] to [batch, size].
POOLINGS: dict[str, Pool] = {"mean": _mean, "cls": _cls, "lasttoken": _last, "max": _max}

_POOLING_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
}


def _pooling(config: dict[str, Any]) -> str:
    """Reads a pooling module's config: a mode's name (newer files) or one flag per mode."""
    modes = (
        [str(config["pooling_mode"])]
        if "pooling_mode" in config
        else [key for key, on in config.items() if key.startswith("pooling_mode_") and on]
    )
    names = [_POOLING_FLAGS.get(mode, mode) for mode in modes] or ["mean"]
    if len(names) > 1 or names[0] not in POOLINGS:
        raise UnsupportedModel(
            f"the pooling {' + '.join(names)} is not supported", f"use a model that pools by one of: {', '.join(POOLINGS)}"
        )
    return names[0]


def _load(folder: Path, dtype: torch.dtype, device: torch.device) -> Any:
    try:
        model = AutoModel.from_pretrained(
            folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True, trust_remote_code=False
        )
    except OSError as error:
        raise WeightsNotFound(
            f"{folder} holds no complete weights: {error}", "provide *.safetensors; pickled weights are not loaded"
        ) from error
    except ValueError as error:
        raise UnsupportedModel(f"{folder} cannot be loaded as an encoder: {error}") from error
    return model.to(device).eval()


def _max_length(wanted: int | None, config: Any, tokenizer: Any) -> int:
    limits = [wanted, getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
    return min(limit for limit in limits if limit)


def _specials(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the special tokens that the tokenizer puts before and after a text."""
    bare: list[int] = tokenizer("a", add_special_tokens=False)["input_ids"]
    full: list[int] = tokenizer("a")["input_ids"]
    start = next(index for index in range(len(full)) if full[index : index + len(bare)] == bare)
    return full[:start], full[start + len(bare) :]


def _json(path: Path, default: Any) -> Any:
    return json.loads(path.read_text()) if path.is_file() else default
