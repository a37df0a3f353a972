"""Threads beside a model: how many there are, and what becomes of work that does not fit."""

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
import torch
from modelyard.api.errors import TooManyRequests, Unavailable
from modelyard_runtime import hardware
from modelyard_runtime.loads import Load
from modelyard_runtime.metrics import Exposition, Metrics
from modelyard_runtime.serving import generation
from modelyard_runtime.serving.engines import Chosen, choose
from modelyard_runtime.serving.families import Context, Service
from modelyard_runtime.serving.loading import find, load
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


#: Threads beside a model on twelve cores, by the device that computes it.
BESIDE = {"cpu": 3, "cuda": 6}


@pytest.fixture
def service_of(settings, monkeypatch):
    """Returns the service of a builtin model that is said to be on a device; only its threads may be looked at, for it is on none."""

    def make(name: str, device: str) -> Service:
        def on_device(*given: Any) -> Chosen:
            chosen = choose(*given)
            return replace(chosen, model=replace(chosen.model, device=torch.device(device)))

        monkeypatch.setattr(generation, "choose", on_device)
        own = settings(f"builtin://{name}")
        found = find(own, lambda _: None)
        loaded = load(found, own, lambda _: None)
        if hasattr(loaded, "encoder"):
            loaded.encoder.device = torch.device(device)
        metrics = Metrics(Exposition(), name, Load)
        return found.module.serve(loaded, Context(own, metrics, found.capabilities, lambda _: None))

    return make


@pytest.mark.parametrize("device", BESIDE)
async def test_what_reads_texts_and_images_has_the_threads_that_the_model_s_device_leaves(executors, service_of, device):
    service = service_of("tiny-vision", device)
    assert {name: executors[name] for name in ("prompt-reader", "media")} == dict.fromkeys(("prompt-reader", "media"), BESIDE[device])
    leave, running = threading.Event(), threading.Semaphore(0)

    def read(text: str, **_: object) -> dict[str, list[int]]:
        running.release()
        assert leave.wait(30)
        return {"input_ids": [len(text)]}

    service.model.reader._tokenizer = read
    prompts = [asyncio.create_task(service.encode("Hello")) for _ in range(9)]
    for _ in range(BESIDE[device]):
        assert await asyncio.to_thread(running.acquire, timeout=30), "so many are read at once"
    leave.set()
    assert await asyncio.gather(*prompts) == [[5]] * 9
    await service.stop()


@pytest.mark.parametrize("device", BESIDE)
@pytest.mark.parametrize("name", ["tiny-embed", "tiny-classify"])
async def test_what_reads_texts_beside_an_encoder_has_the_threads_that_its_device_leaves(executors, service_of, name, device):
    service = service_of(name, device)
    assert executors["text-reader"] == BESIDE[device]
    await service.stop()


def test_the_loop_s_threads_follow_the_cores(executors, start):
    start(lazy=True)
    assert executors["loop"] == 16


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
