"""What a start that fails is told as."""

import asyncio
from pathlib import Path

import pytest
import torch
from modelyard_runtime.errors import Crashed, OutOfMemory
from modelyard_runtime.metrics import Exposition
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.specs import specs_of
from modelyard_runtime.serving.start import load_into
from modelyard_runtime.settings import ServeSettings


async def start(cache: Path, problem: Exception) -> None:
    """Starts a model, which fails when room is to be made for it."""

    async def fail(_: ServedModel, __: int) -> None:
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
