import asyncio

import pytest
from modelyard.controller import queue as module
from modelyard.controller.queue import Urgency, WorkQueue
from modelyard.controller.types import Key

A, B, C = (Key("default", name) for name in "abc")


async def test_a_key_waits_once_and_the_urgent_go_first():
    queue = WorkQueue()
    for key, urgency in ((A, Urgency.RESYNC), (B, Urgency.CHANGED), (A, Urgency.RESYNC), (C, Urgency.SCALING), (B, Urgency.RESYNC)):
        queue.add(key, urgency)
    assert len(queue) == 3
    assert [await queue.get() for _ in range(3)] == [C, B, A]


async def test_a_resync_that_changes_becomes_urgent():
    queue = WorkQueue()
    queue.add(A, Urgency.RESYNC)
    queue.add(B, Urgency.CHANGED)
    queue.add(A, Urgency.SCALING)
    assert [await queue.get(), await queue.get()] == [A, B]
    assert len(queue) == 0


async def test_a_key_is_never_worked_on_twice_at_a_time():
    queue = WorkQueue()
    queue.add(A)
    assert await queue.get() == A
    queue.add(A)
    assert len(queue) == 0
    queue.done(A)
    assert await queue.get() == A


async def test_waiting_workers_are_woken():
    queue = WorkQueue()
    workers = [asyncio.create_task(queue.get()) for _ in range(2)]
    await asyncio.sleep(0)
    queue.add(A)
    queue.add(B)
    assert set(await asyncio.gather(*workers)) == {A, B}


async def test_failures_wait_longer_each_time_up_to_the_longest(monkeypatch):
    queue, waits = WorkQueue(), []
    monkeypatch.setattr(queue, "_add_later", lambda key, urgency, after: waits.append(after))
    for _ in range(9):
        queue.add(A)
        await queue.get()
        queue.done(A, failed=True)
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    queue.add(A)
    queue.done(await queue.get())
    queue.add(A)
    await queue.get()
    queue.done(A, failed=True)
    assert waits[-1] == 1  # a success in between starts over


async def test_a_failed_key_comes_back_and_news_end_its_wait(monkeypatch):
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.01)
    queue = WorkQueue()
    queue.add(A)
    queue.done(await queue.get(), failed=True)
    assert await asyncio.wait_for(queue.get(), 5) == A
    monkeypatch.setattr(module, "BACKOFF_FIRST", 50.0)
    queue.done(A, failed=True)
    queue.add(A)
    assert await asyncio.wait_for(queue.get(), 5) == A


async def test_delays_coalesce_to_the_earliest():
    queue = WorkQueue()
    queue.add(A, after=60.0)
    queue.add(A, after=0.01)
    queue.add(A, after=30.0)
    assert await asyncio.wait_for(queue.get(), 5) == A
    queue.done(A)
    assert len(queue) == 0


@pytest.mark.parametrize("after", [0.0, 0.01])
async def test_a_forgotten_key_is_gone(after):
    queue = WorkQueue()
    queue.add(A, after=after)
    queue.forget(A)
    queue.add(B, after=0.02)
    assert await queue.get() == B
    assert queue.oldest_age == 0.0
