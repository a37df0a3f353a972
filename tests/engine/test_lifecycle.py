"""Requests come, leave and fail; the engine keeps its slots and says why it died."""

import asyncio
import math
import random
import threading
from typing import Any

import pytest
import torch
from modelyard_runtime.engine.base import STEP_SIZES, EngineFailed, EngineStats, FinishReason, InvalidTokens, RequestFailed, RequestTooLarge
from modelyard_runtime.engine.blocks import BLOCK
from modelyard_runtime.engine.engine import TransformersEngine
from modelyard_runtime.engine.settings import EngineSettings


async def test_cancelling_frees_the_slot_within_a_step(kit: Any) -> None:
    async with kit.engine("qwen3", max_concurrent_sequences=1) as engine:
        endless = engine.submit(kit.request([5, 6], max_tokens=250))
        await anext(endless)
        waiting = asyncio.create_task(kit.tokens(engine, [7, 8], max_tokens=3))
        steps = engine.stats().steps_total
        await endless.aclose()
        assert len(await waiting) == 3
        assert engine.stats().steps_total - steps < 100
        await kit.settled(engine)
        assert engine._core.table.taken == 0


async def test_a_request_is_cancelled_while_it_waits(kit: Any) -> None:
    async with kit.engine("qwen3", max_concurrent_sequences=1) as engine:
        running = engine.submit(kit.request([5, 6], max_tokens=250))
        await anext(running)
        queued = engine.submit(kit.request([7, 8], max_tokens=250))
        await queued.aclose()
        await running.aclose()
        await kit.settled(engine)
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)


async def test_closing_twice_or_after_the_end_changes_nothing(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        stream = engine.submit(kit.request([5], max_tokens=2))
        assert [event.finish_reason async for event in stream] == [None, FinishReason.LENGTH]
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_what_does_not_fit_is_refused_by_name(kit: Any) -> None:
    async with kit.engine("qwen3", max_model_length=64) as engine:
        with pytest.raises(RequestTooLarge, match=r"60 tokens and 5 new tokens exceed this model's limit of 64 tokens"):
            engine.submit(kit.request([5] * 60, max_tokens=5))
        with pytest.raises(RequestTooLarge, match="empty"):
            engine.submit(kit.request([], max_tokens=5))
        assert len(await kit.tokens(engine, [5] * 60, max_tokens=4)) == 4


@pytest.mark.parametrize("bad", [{"prompt": [5, -1]}, {"prompt": [5, 10**9]}, {"prompt": [5], "logit_bias": {10**9: 1.0}}])
async def test_tokens_that_the_model_lacks_are_refused_before_they_fail_a_step(kit: Any, bad: dict[str, Any]) -> None:
    async with kit.engine("qwen3") as engine:
        with pytest.raises(InvalidTokens, match=r"token ids are 0 to \d+"):
            engine.submit(kit.request(max_tokens=5, **bad))
        assert len(await kit.tokens(engine, [5], max_tokens=4)) == 4


async def test_waiting_and_running_are_counted(kit: Any) -> None:
    async with kit.engine("qwen3", max_concurrent_sequences=1) as engine:
        streams = [engine.submit(kit.request([5, 6], max_tokens=200)) for _ in range(3)]
        await anext(streams[0])
        assert (engine.stats().running, engine.stats().waiting) == (1, 2)
        assert 0 < engine.stats().kv_cache_usage < 1
        for stream in streams:
            await stream.aclose()


async def test_no_slot_leaks_over_random_cancellations(kit: Any) -> None:
    chance = random.Random(3)

    async def visitor(engine: TransformersEngine) -> None:
        stream = engine.submit(kit.request([chance.randrange(3, 200)] * chance.randrange(1, 80), max_tokens=chance.randrange(1, 30)))
        patience = chance.randrange(0, 20)
        if patience == 0:
            await stream.aclose()
        async for _ in stream:
            patience -= 1
            if patience == 0:
                await stream.aclose()

    async with kit.engine("qwen3", max_concurrent_sequences=4, prefill_tokens=32) as engine:
        await asyncio.gather(*(visitor(engine) for _ in range(150)))
        await kit.settled(engine)
        stats = engine.stats()
        assert (stats.running, stats.waiting, stats.kv_cache_usage, engine._core.table.taken) == (0, 0, 0.0, 0)


async def test_an_engine_that_does_not_compute_any_more_fails_all_requests_and_dies(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        streams = [engine.submit(kit.request([5, 6, i], max_tokens=200)) for i in range(3)]
        for stream in streams:
            await anext(stream)

        def broken(*_: Any) -> None:
            raise ArithmeticError("the hardware is on fire")

        loaded.model.model.norm.register_forward_hook(broken)
        for stream in streams:
            with pytest.raises(EngineFailed, match="ArithmeticError: the hardware is on fire"):
                async for _ in stream:
                    pass
        assert await kit.deaths[engine].get() is engine.failure
        with pytest.raises(EngineFailed, match="on fire"):
            await anext(engine.submit(kit.request([5], max_tokens=1)))
        await engine.drain()


def fails_at(layer: Any, calls: set[int], error: Exception) -> None:
    """Makes a layer raise at some of its calls from now on, counted from 1."""
    seen = 0

    def hook(*_: Any) -> None:
        nonlocal seen
        seen += 1
        if seen in calls:
            raise error

    layer.register_forward_hook(hook)


async def test_an_engine_that_still_computes_begins_anew_after_an_error(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        wanted = await kit.tokens(engine, [5, 6, 7] * 20, max_tokens=8)
        fails_at(loaded.model.model.norm, {3}, ArithmeticError("a cosmic ray"))
        for outcome in await asyncio.gather(*(kit.tokens(engine, [8, 9, i], max_tokens=50) for i in range(3)), return_exceptions=True):
            assert isinstance(outcome, EngineFailed)
            assert "a cosmic ray" in str(outcome)
        assert await kit.tokens(engine, [5, 6, 7] * 20, max_tokens=8) == wanted
        stats = engine.stats()
        assert (engine.failure, stats.restarts_total, stats.prefix_cache_hits_total, stats.running) == (None, 1, 0, 0)


async def test_an_engine_that_fails_again_and_again_dies(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        # Each self-test takes two steps: it fails in every third one.
        fails_at(loaded.model.model.norm, set(range(1, 100, 3)), ArithmeticError("again"))
        for _ in range(4):
            with pytest.raises(EngineFailed, match="again"):
                await kit.tokens(engine, [5], max_tokens=50)
        assert "again" in str(await kit.deaths[engine].get())
        assert engine.stats().restarts_total == 3


@pytest.mark.parametrize(
    "error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("can't allocate memory: 9 PB")]
)
async def test_running_out_of_memory_makes_steps_smaller_and_changes_no_answer(kit: Any, error: Exception) -> None:
    loaded = kit.load("qwen3")
    prompts = [[5 + i, 6, 7] * 15 for i in range(4)]
    async with kit.engine(loaded) as engine:
        wanted = [await kit.tokens(engine, prompt, max_tokens=12) for prompt in prompts]

        def tight(_: Any, inputs: tuple[Any, ...]) -> None:
            if inputs[0].shape[1] > 10:
                raise error

        loaded.model.model.layers[1].register_forward_pre_hook(tight)
        assert await asyncio.gather(*(kit.tokens(engine, prompt, max_tokens=12) for prompt in prompts)) == wanted
        assert (engine.failure, engine.stats().restarts_total) == (None, 0)


async def test_a_request_that_does_not_fit_by_itself_fails_alone(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        huge = 250

        def tight(_: Any, inputs: tuple[Any, ...]) -> None:
            if bool((inputs[0] == huge).any()):
                raise MemoryError

        loaded.model.model.embed_tokens.register_forward_pre_hook(tight)
        neighbours = [asyncio.create_task(kit.tokens(engine, [5, 6, i], max_tokens=30)) for i in range(3)]
        with pytest.raises(RequestFailed, match="memory ran out"):
            await kit.tokens(engine, [7, 8, huge, 9], max_tokens=30)
        assert [len(await neighbour) for neighbour in neighbours] == [30] * 3
        assert engine.failure is None


async def test_a_step_that_does_not_end_kills_the_engine(kit: Any) -> None:
    loaded = kit.load("qwen3")
    go_on = threading.Event()
    async with kit.engine(loaded, step_timeout=1.0) as engine:
        stream = engine.submit(kit.request([5, 6], max_tokens=200))
        await anext(stream)
        loaded.model.model.norm.register_forward_hook(lambda *_: go_on.wait() and None)
        with pytest.raises(EngineFailed, match="did not end within 1 s"):
            async for _ in stream:
                pass
        assert await kit.deaths[engine].get() is engine.failure
        await engine.stop()
        assert engine._thread.is_alive()
        go_on.set()
        engine._thread.join(60)
        assert not engine._thread.is_alive()


async def test_a_cancelled_request_is_in_no_step_after_the_one_that_runs(kit: Any) -> None:
    loaded = kit.load("qwen3")
    inside, go_on = threading.Event(), threading.Event()
    async with kit.engine(loaded) as engine:
        leaver = engine.submit(kit.request([5, 6], max_tokens=200))
        stayer = engine.submit(kit.request([7, 8], max_tokens=200))
        await anext(leaver)
        await anext(stayer)
        sizes: list[int] = []

        def gate(_: Any, inputs: tuple[Any, ...]) -> None:
            sizes.append(inputs[0].numel())
            inside.set()
            go_on.wait()

        loaded.model.model.embed_tokens.register_forward_pre_hook(gate)
        await asyncio.to_thread(inside.wait)
        await leaver.aclose()
        go_on.set()
        while len(sizes) < 4:
            await anext(stayer)
        assert sizes[:4] == [2, 1, 1, 1]
        await stayer.aclose()


async def test_a_request_whose_scores_are_not_numbers_fails_alone(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        healthy = await kit.tokens(engine, [5, 6, 7], max_tokens=8)
        poison = 250

        def spoil(_: Any, inputs: tuple[Any, ...], output: Any) -> Any:
            output[inputs[0] == poison] = float("nan")
            return output

        loaded.model.model.embed_tokens.register_forward_hook(spoil)
        neighbour = asyncio.create_task(kit.tokens(engine, [5, 6, 7], max_tokens=8))
        with pytest.raises(EngineFailed, match="not numbers"):
            await kit.tokens(engine, [poison] * 40, max_tokens=8)
        assert await neighbour == healthy
        together = await asyncio.gather(*(kit.tokens(engine, [5, 6, 7], max_tokens=8 + i) for i in range(8)))
        assert [tokens[:8] for tokens in together] == [healthy] * 8
        assert engine.failure is None


async def test_drain_waits_for_the_last_request(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        request = asyncio.create_task(kit.tokens(engine, [5, 6], max_tokens=20))
        await asyncio.sleep(0)
        await engine.drain()
        assert len(await request) == 20


async def test_stopping_fails_requests_in_flight_and_later_ones(kit: Any) -> None:
    engine = TransformersEngine(kit.load("qwen3"), EngineSettings(max_model_length=256, max_concurrent_sequences=2))
    engine.start()
    stream = engine.submit(kit.request([5, 6], max_tokens=250))
    await anext(stream)
    await engine.stop()
    with pytest.raises(EngineFailed, match="stopped"):
        async for _ in stream:
            pass
    with pytest.raises(EngineFailed, match="stopped"):
        await anext(engine.submit(kit.request([5], max_tokens=1)))


async def test_stop_before_start_returns(kit: Any) -> None:
    await TransformersEngine(kit.load("qwen3"), EngineSettings(max_model_length=64, max_concurrent_sequences=1)).stop()


async def test_a_long_prompt_does_not_stall_a_stream(kit: Any) -> None:
    async with kit.engine("qwen3", max_model_length=512, prefill_tokens=64, prefill_tokens_beside_decodes=16) as engine:
        stream = engine.submit(kit.request([5, 6], max_tokens=400))
        await anext(stream)
        before = engine.stats()
        long = asyncio.create_task(kit.tokens(engine, [7] * 400, max_tokens=1))
        await long
        after = engine.stats()
        await stream.aclose()
        assert after.steps_total - before.steps_total >= 400 // 16
        assert after.generation_tokens_total - before.generation_tokens_total >= 400 // 16


async def test_counters_are_those_of_requests_alone(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        assert engine.stats().generation_tokens_total == 0
        await asyncio.gather(*(kit.tokens(engine, [5] * 10, max_tokens=4) for _ in range(3)))
        stats = engine.stats()
        assert (stats.prompt_tokens_total, stats.generation_tokens_total) == (30, 12)
        assert (sum(stats.steps_by_size), stats.step_tokens_total) == (stats.steps_total, 42)


async def test_steps_are_told_apart_by_their_tokens(kit: Any) -> None:
    def sizes(stats: EngineStats) -> dict[float, int]:
        return {bound: count for bound, count in zip((*STEP_SIZES, math.inf), stats.steps_by_size, strict=True) if count}

    async with kit.engine("qwen3", max_model_length=512, prefill_tokens=64) as engine:
        await kit.tokens(engine, [5] * 100, max_tokens=4)
        # 64 tokens of the prompt, then 36 and the first of the answer, then the others one by one.
        assert sizes(engine.stats()) == {64: 2, 1: 3}
        await kit.tokens(engine, [5] * 100, max_tokens=1)
        cached = (100 - 1) // BLOCK * BLOCK
        assert engine.stats().step_tokens_total == 104 + (100 - cached) + 1
