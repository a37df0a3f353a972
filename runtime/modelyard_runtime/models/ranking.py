"""Models that judge a text or a pair of texts: cross-encoders that rerank, and classifiers.

A cross-encoder is a sequence-classification model with one label. How its scores are activated follows sentence-transformers
(https://sbert.net/docs/cross_encoder/usage/usage.html), a classifier's follows Transformers' text-classification pipeline.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification

from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.model_files import read_object
from modelyard_runtime.models.encoder import Batch, Encoder, by_length, close, load_model, trial
from modelyard_runtime.models.pooling import Hidden, first, last
from modelyard_runtime.models.sentence import longest_text
from modelyard_runtime.models.tokenizing import TextTokenizer

Head = Callable[[Hidden], Tensor]
Activation = Literal["none", "sigmoid", "softmax"]
_ACTIVATIONS: dict[str, Activation] = {"Identity": "none", "Sigmoid": "sigmoid"}


class RankingModel:
    """A sequence-classification model. `judge` belongs on one thread; the rest may be called from any."""

    def __init__(self, folder: Path, *, dtype: torch.dtype, device: torch.device):
        """Loads a folder. Raises UnsupportedModel, WeightsNotFound or OutOfMemory."""
        self.tokenizer = TextTokenizer(folder)
        self._model = load_model(AutoModelForSequenceClassification, folder, dtype=dtype, device=device)
        config = self._model.config
        if config.get_text_config().pad_token_id is None:
            config.get_text_config().pad_token_id = self.tokenizer.pad
        self.labels = [str(config.id2label[index]) for index in range(config.num_labels)]
        self.activation = _activation(config)
        self._head = self._prepare(device)
        limit = longest_text(read_object(folder / "sentence_bert_config.json")) or self.tokenizer.limit
        self.max_length = min(bound for bound in (limit, self.tokenizer.limit, self.encoder.longest) if bound)
        self.vocabulary = int(self.encoder.config.vocab_size)

    @property
    def packs(self) -> bool:
        """Whether texts are packed, so that a batch costs no padding."""
        return self._head is not None

    @torch.inference_mode()
    def judge(self, batch: Batch) -> NDArray[np.float32]:
        """Returns the scores of a batch before activation, shape [len(batch), len(labels)]."""
        return by_length(batch, self._logits)

    def _logits(self, batch: Batch) -> Tensor:
        if self._head is not None:
            return self._head(self.encoder.hidden(batch))
        logits: Tensor = self._model(**self.encoder.padded(batch)).logits
        return logits

    @torch.inference_mode()
    def _prepare(self, device: torch.device) -> Head | None:
        """Finds the model's head, by trying which gives the scores that the model itself gives; None where it must be run as a whole."""
        base = self._model.base_model.config.get_text_config()
        texts = trial(base.vocab_size, (4, 9, 4))
        alone = [self._model(input_ids=torch.tensor([text.ids], device=device)).logits for text in texts]
        self.encoder = Encoder(self._model, pad=self.tokenizer.pad, device=device, max_length=self.tokenizer.limit)
        wanted = torch.cat(alone).float()
        if self.encoder.packs:
            hidden = self.encoder.hidden(texts)
            for head in _heads(self._model):
                if close(head(hidden).float(), wanted, self._model.dtype):
                    return head
            self.encoder.unpack()
        return None


def activate(scores: NDArray[np.float32], activation: Activation) -> NDArray[np.float32]:
    """Returns scores [texts, labels] as probabilities."""
    match activation:
        case "sigmoid":
            return np.exp(-np.logaddexp(np.float32(0), -scores))
        case "softmax":
            powers = np.exp(scores - scores.max(-1, keepdims=True))
            softened: NDArray[np.float32] = powers / powers.sum(-1, keepdims=True)
            return softened
        case _:
            return scores


def _activation(config: Any) -> Activation:
    named = (getattr(config, "sentence_transformers", None) or {}).get("activation_fn") or getattr(
        config, "sbert_ce_default_activation_function", None
    )
    if named:
        name = str(named).rsplit(".", 1)[-1]
        if name not in _ACTIVATIONS:
            raise UnsupportedModel(f"the activation {named} is not supported", f"set config.json's to one of: {', '.join(_ACTIVATIONS)}")
        return _ACTIVATIONS[name]
    if config.problem_type == "regression":
        return "none"
    return "sigmoid" if config.num_labels == 1 or config.problem_type == "multi_label_classification" else "softmax"


def _heads(model: Any) -> list[Head]:
    """Returns the ways in which Transformers' models go from hidden states to scores, as far as this one has their layers."""
    dtype = model.dtype
    heads: list[Head] = []
    if isinstance(score := getattr(model, "score", None), nn.Module):
        heads.append(lambda hidden: score(last(hidden).to(dtype)))
    if isinstance(classifier := getattr(model, "classifier", None), nn.Module):
        pooler = getattr(model.base_model, "pooler", None)
        if isinstance(classifier, nn.Linear) and isinstance(pooler, nn.Module):
            heads.append(lambda hidden: classifier(pooler(first(hidden).to(dtype)[:, None])))
        elif not isinstance(classifier, nn.Linear):  # RoBERTa's kind takes all states, and looks at the first
            heads.append(lambda hidden: classifier(first(hidden).to(dtype)[:, None]))
    return heads
