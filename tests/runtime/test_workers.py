"""Threads beside a model: how many there are, and what becomes of work that does not fit."""

import asyncio
import threading

import pytest
from modelyard.api.errors import TooManyRequests, Unavailable
from modelyard_runtime import hardware
from modelyard_runtime.serving.workers import Workers

from .conftest import wait_until


@pytest.mark.parametrize(
    ("cores", "beside_a_processor", "beside_a_device"), [(1, 2, 2), (2, 2, 2), (8, 2, 4), (16, 4, 8), (32, 8, 16), (128, 8, 16)]
)
def test_their_number_follows_the_cores_and_what_computes(monkeypatch, cores, beside_a_processor, beside_a_device):
    monkeypatch.setattr(hardware, "usable_cores", lambda: cores)
    assert hardware.helpers("cpu") == beside_a_processor
    assert hardware.helpers("cuda") == hardware.helpers("mps") == beside_a_device
    assert cores < hardware.threads_of_the_loop() <= 32 or cores >= 32


async def test_work_is_done_a_few_at_a_time_and_what_waits_is_bounded():
    workers = Workers("test", 2, waiting=1, timeout=30)
    running, leave = threading.Semaphore(0), threading.Event()

    def work() -> str:
        running.release()
        assert leave.wait(30)
        return threading.current_thread().name

    tasks = [asyncio.create_task(workers.run(work)) for _ in range(3)]
    for _ in range(2):
        await asyncio.to_thread(running.acquire)
    assert not running.acquire(blocking=False), "the third waits"
    with pytest.raises(TooManyRequests):
        await workers.run(work)
    leave.set()
    names = await asyncio.gather(*tasks)
    assert {name.rpartition("_")[0] for name in names} == {"test"}
    workers.close()


async def test_what_waits_too_long_is_told_and_what_fails_fails():
    workers = Workers("test", 1, waiting=1, timeout=0.05)
    leave = threading.Event()
    first = asyncio.create_task(workers.run(lambda: leave.wait(30)))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable) as late:
        await workers.run(lambda: None)
    assert late.value.code == "queue_timeout"
    leave.set()
    assert await first
    with pytest.raises(ZeroDivisionError):
        await workers.run(lambda: 1 / 0)
    workers.close()


def test_a_model_ends_its_threads(start):
    before = set(threading.enumerate())  # the threads themselves: the system gives their numbers anew
    server = start("builtin://tiny-embed")
    wait_until(lambda: any(thread.name.startswith("loop") for thread in set(threading.enumerate()) - before), "its loop has threads")
    server.told()
    assert server.join() is None
    left = [thread.name for thread in set(threading.enumerate()) - before]
    assert not [name for name in left if name.startswith(("loop", "text-reader", "batcher"))], left
