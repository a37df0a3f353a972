"""Many requests that come, go and break off: nothing is left of them, neither blocks nor memory nor tasks."""

import asyncio
import gc
import os
import random
import time
from collections.abc import Callable
from typing import Any

import psutil
import pytest
from modelyard_runtime.engine.base import EngineFailed
from modelyard_runtime.engine.engine import TransformersEngine

#: Requests; `make soak` has 20,000.
REQUESTS = int(os.environ.get("MODELYARD_SOAK_REQUESTS", "600"))
#: Growth that is put up with between the first quarter and the end.
_GROWTH = 0.02


async def visit(kit: Any, engine: TransformersEngine, chance: random.Random) -> None:
    """One request of any kind; half of them are broken off, at once or on the way."""
    beginning = [chance.randrange(3, 6)] * chance.choice([0, 16, 48])
    prompt = beginning + [chance.randrange(3, 250) for _ in range(chance.randrange(1, 60))]
    sampling = chance.choice([{}, {"temperature": 1.0, "seed": 3}, {"repetition_penalty": 1.2}, {"prompt_logprobs": 1}, {"logprobs": 2}])
    stream = engine.submit(kit.request(prompt, max_tokens=chance.randrange(1, 24), **sampling))
    patience = chance.choice([0, chance.randrange(1, 24), 99, 99])
    while patience > 0:
        try:
            await anext(stream)
        except StopAsyncIteration:
            return
        except EngineFailed as error:
            raise AssertionError("no request of this test may fail") from error
        patience -= 1
    await stream.aclose()


async def crowd(kit: Any, engine: TransformersEngine, requests: range, tell: Callable[[int], None]) -> None:
    chance = random.Random(requests.start)
    left, ended = iter(requests), iter(requests)

    async def visitor() -> None:
        for _ in left:
            await visit(kit, engine, chance)
            tell(next(ended) + 1)

    await asyncio.gather(*(visitor() for _ in range(16)))
    await kit.settled(engine)


def memory() -> int:
    gc.collect()
    return int(psutil.Process().memory_info().rss)


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Callable[[int], None]:
    """Says how far a long run is."""
    began = time.monotonic()

    def say(ended: int) -> None:
        if ended % 1000 == 0:
            with capsys.disabled():
                print(f"{ended} requests, {memory() / (1 << 20):.1f} MiB, {time.monotonic() - began:.0f} s", flush=True)

    return say


async def test_nothing_is_left_of_a_crowd(kit: Any, tell: Callable[[int], None]) -> None:
    tricks = {"prefill_tokens": 32, "speculative_tokens": 3, "max_concurrent_sequences": 8, "kv_cache_tokens": 512}
    async with kit.engine("llama", max_model_length=160, **tricks) as engine:
        tasks = len(asyncio.all_tasks())
        await crowd(kit, engine, range(REQUESTS // 4), tell)
        before = memory()
        await crowd(kit, engine, range(REQUESTS // 4, REQUESTS), tell)
        stats, table = engine.stats(), engine._core.table
        assert (stats.running, stats.waiting, table.taken, table.held) == (0, 0, 0, 0)
        assert (engine._streams, engine._known, len(asyncio.all_tasks())) == ({}, set(), tasks)
        assert memory() <= before * (1 + _GROWTH)
        assert min(stats.preemptions_total, stats.prefix_cache_hits_total, stats.draft_tokens_total) > 0
        table.clear()
        assert table.cached == 0
        assert not table._index
