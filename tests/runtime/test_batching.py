"""Batches across requests: turns, budgets, failures, clients that leave, memory that runs out."""

import asyncio
import threading

import numpy as np
import pytest
from modelyard.api.errors import InternalError, TooManyRequests, Unavailable
from modelyard_runtime.serving.batching import Batcher, Budget, Waiting, bucket
from modelyard_runtime.serving.limiter import Limiter, Limiters


def rows(batch) -> np.ndarray:
    return np.array([[len(ids)] for ids in batch], dtype=np.float32)


async def waiting(*requests: list[int], padded: bool = False) -> Waiting:
    """Requests of items of these lengths, in the order of their arrival."""
    queue = Waiting(padded=padded)
    for lengths in requests:
        queue.job([[0] * length for length in lengths], "embeddings", asyncio.get_running_loop().create_future())
    return queue


def lengths(batch) -> list[int]:
    return [len(entry.item) for entry in batch]


async def test_a_batch_has_the_oldest_text_and_others_within_the_budget():
    queue = await waiting([100], [5], [90], [10], [120])
    assert lengths(queue.take(300)) == [100, 5, 90, 10]
    assert lengths(queue.take(50)) == [120], "one text goes whatever its length"
    assert queue.take(300) == []


async def test_what_is_padded_goes_with_its_like_and_counts_with_its_padding():
    queue = await waiting([100], [5], [90], [10], [120], [70], padded=True)
    assert lengths(queue.take(300)) == [100, 90]
    assert lengths(queue.take(300)) == [5, 10], "the turn passes on"
    assert lengths(queue.take(300)) == [120, 70]


async def test_a_request_of_thousands_leaves_the_others_their_turns():
    queue = await waiting([10] * 2000, [10], [10, 10], [10])
    first = queue.take(100)
    assert [len(entry.job.rows) for entry in first] == [2000, 1, 2, 1, 2000, 2, 2000, 2000, 2000, 2000]
    assert queue.items == 2000 - 6


async def test_what_a_client_that_left_had_waiting_is_dropped():
    queue = await waiting([10, 10], [20])
    queue.take(10)[0].job.done = True
    assert queue.items == 1
    assert lengths(queue.take(100)) == [20]


def test_at_most_half_of_a_padded_batch_is_padding():
    assert {bucket(length) for length in range(1, 17)} == {4}
    assert [bucket(length) for length in (17, 32, 33, 64, 65)] == [5, 5, 6, 6, 7]


def test_the_budget_halves_and_comes_back():
    now = [0.0]
    budget = Budget(1000, cooldown=30, clock=lambda: now[0])
    budget.halve(800)
    assert budget.tokens == 400
    now[0] = 29
    assert budget.tokens == 400
    now[0] = 30
    assert budget.tokens == 800
    now[0] = 60
    assert budget.tokens == 1000


async def test_texts_collect_while_a_batch_is_computed():
    begun, go = threading.Event(), threading.Event()
    batches: list[int] = []

    def compute(batch):
        batches.append(len(batch))
        begun.set()
        go.wait(10)
        return rows(batch)

    batcher = Batcher(compute, budget=Budget(1000), padded=False)
    first = asyncio.create_task(batcher.submit([[1]]))
    await asyncio.to_thread(begun.wait, 10)
    others = [asyncio.create_task(batcher.submit([[1] * length])) for length in (3, 5, 7)]
    left = asyncio.create_task(batcher.submit([[1] * 9]))
    await asyncio.sleep(0)
    assert batcher.waiting == 4
    left.cancel()
    await asyncio.wait([left])
    go.set()
    assert [float(row[0]) for task in (first, *others) for row in await task] == [1, 3, 5, 7]
    assert batches == [1, 3], "the text of the client that left was dropped, the others shared a batch"
    await batcher.stop()


async def test_a_failed_batch_fails_its_texts_alone():
    def compute(batch):
        if any(ids == [13] for ids in batch):
            raise ValueError("unlucky")
        return rows(batch)

    batcher = Batcher(compute, budget=Budget(1000), padded=False)
    unlucky, lucky = await asyncio.gather(batcher.submit([[7], [13]]), batcher.submit([[7]]), return_exceptions=True)
    assert isinstance(unlucky, ValueError)
    assert len(lucky) == 1
    await batcher.stop()


async def test_a_row_that_is_not_finite_fails_its_request_alone():
    batcher = Batcher(lambda batch: np.where(rows(batch) == 13, np.inf, rows(batch)), budget=Budget(1000), padded=False)
    unlucky, lucky = await asyncio.gather(batcher.submit([[1] * 13]), batcher.submit([[7]]), return_exceptions=True)
    assert isinstance(unlucky, InternalError)
    assert len(lucky) == 1
    await batcher.stop()


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
async def test_a_batch_that_does_not_fit_the_memory_is_computed_in_parts(error):
    sizes: list[int] = []

    def compute(batch):
        sizes.append(sum(map(len, batch)))
        if sizes[-1] > 100:
            raise error
        return rows(batch)

    budget = Budget(1000)
    batcher = Batcher(compute, budget=budget, padded=False)
    fitting = await batcher.submit([[1] * 50] * 8)
    assert [float(row[0]) for row in fitting] == [50] * 8
    assert sizes == [400, 200, 100, 100, 200, 100, 100]
    assert budget.tokens == 50
    with pytest.raises(Unavailable, match="text of 200 tokens"):
        await batcher.submit([[1] * 200])
    assert len(await batcher.submit([[1]])) == 1, "the next request is served"
    await batcher.stop()


async def test_stopping_ends_those_who_wait():
    begun, go = threading.Event(), threading.Event()

    def compute(batch):
        begun.set()
        go.wait(10)
        return rows(batch)

    batcher = Batcher(compute, budget=Budget(10), padded=False)
    working = asyncio.create_task(batcher.submit([[1] * 10]))
    await asyncio.to_thread(begun.wait, 10)
    late = asyncio.create_task(batcher.submit([[1] * 10]))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(batcher.stop())
    await asyncio.wait([late])
    assert late.cancelled()
    go.set()
    await stopping
    assert len(await working) == 1


async def test_capabilities_of_a_model_do_not_take_each_others_places():
    limiters = Limiters({name: Limiter(concurrency=1, max_queue=0, queue_timeout=1) for name in ("embeddings", "rerank")})
    async with limiters["embeddings"].slot():
        with pytest.raises(TooManyRequests):
            limiters["embeddings"].check()
        limiters["rerank"].check()
        assert (limiters.working, limiters.waiting) == (1, 0)
        limiters.close()
        drained = asyncio.create_task(limiters.drained())
        await asyncio.sleep(0)
        assert not drained.done()
    await drained
    with pytest.raises(Unavailable):
        limiters["rerank"].check()
