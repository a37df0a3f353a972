"""What a start that fails is told as."""

import asyncio
from pathlib import Path

import pytest
import torch
from modelyard_runtime.errors import Crashed, OutOfMemory
from modelyard_runtime.hardware import has_matrix_units
from modelyard_runtime.metrics import Exposition
from modelyard_runtime.serving.facts import Facts
from modelyard_runtime.serving.memory import least
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.specs import specs_of
from modelyard_runtime.serving.start import load_into
from modelyard_runtime.settings import ServeSettings


async def start(cache: Path, problem: Exception | None) -> None:
    """Starts a model, which fails when room is to be made for it."""

    async def fail(_: ServedModel, __: int) -> None:
        if problem is not None:
            raise problem

    (spec,) = specs_of(ServeSettings(model=("builtin://tiny-chat",), cache_dir=cache))
    await load_into(ServedModel(spec, Exposition()), asyncio.Lock(), fail, lambda _: None)


async def test_memory_that_pytorch_does_not_get_is_out_of_memory(cache_dir: Path):
    """On a processor its error is of no type of its own."""
    with pytest.raises(RuntimeError, match="allocate memory") as refused:
        torch.empty(1 << 58)
    with pytest.raises(OutOfMemory, match="does not fit the memory") as failure:
        await start(cache_dir, refused.value)
    assert "memory" in failure.value.remedy
    with pytest.raises(OutOfMemory):
        await start(cache_dir, MemoryError())


async def test_anything_else_is_a_crash_with_its_own_words(cache_dir: Path):
    with pytest.raises(Crashed, match="the start failed: ZeroDivisionError: of no use"):
        await start(cache_dir, ZeroDivisionError("of no use"))


async def test_a_model_that_cannot_fit_is_refused_before_the_kernel_ends_the_process(cache_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("modelyard_runtime.serving.memory.available_memory", lambda: 1000)
    with pytest.raises(OutOfMemory, match=r"tiny-chat needs .* at least, and 0 MiB are free"):
        await start(cache_dir, None)


@pytest.mark.parametrize(
    ("dtype", "stored", "quantization", "each"),
    [
        ("float32", "BF16", "none", 4),
        ("bfloat16", "BF16", "none", 2),
        ("float32", "F32", "none", 2),
        ("float32", "I32", "none", 2),
        ("float32", "BF16", "int4", 2),
        ("auto", "BF16", "none", 2 if has_matrix_units() else 4),
    ],
)
def test_weights_that_become_wider_need_more_than_their_files(tmp_path: Path, dtype: str, stored: str, quantization: str, each: int):
    (tmp_path / "model.safetensors").write_bytes(bytes(200))
    settings = ServeSettings.model_validate({"model": ("m",), "dtype": dtype, "quantization": quantization, "device": "cpu"})
    assert least(tmp_path, Facts(parameters=100, dtype=stored), settings) == 100 * each
