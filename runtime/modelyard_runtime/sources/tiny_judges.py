"""Tiny models that judge texts, made on the spot, as `modelyard_runtime.sources.tiny` makes the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from modelyard_runtime.sources.tiny import HIDDEN, encoder_config, encoder_weights, linear, save_encoder_tokenizer, seeded, write_json


def make_rerank(folder: Path) -> None:
    """Writes a cross-encoder of two layers into ``folder``, which exists."""
    _make(folder, 20_263, ["relevance"])


def make_classify(folder: Path) -> None:
    """Writes a classifier of three moods into ``folder``, which exists."""
    _make(folder, 20_264, ["glad", "calm", "sad"])


def _make(folder: Path, seed: int, labels: list[str]) -> None:
    vocabulary, draw = save_encoder_tokenizer(folder), seeded(seed)
    named: dict[str, Any] = {
        "architectures": ["BertForSequenceClassification"],
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    write_json(folder / "config.json", encoder_config(vocabulary) | named)
    weights = {f"bert.{name}": weight for name, weight in encoder_weights(draw, vocabulary).items()}
    weights |= linear(draw, "classifier", len(labels), HIDDEN)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
