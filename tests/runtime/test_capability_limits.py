"""A limiter for each capability of a model: one that is full holds up nobody who asks for another."""

import asyncio
import time
from contextlib import ExitStack

import httpx
import pytest
from modelyard.api.errors import Unavailable
from modelyard_runtime.serving.limiter import Limiter, Limiters

from .conftest import wait_until
from .test_images import ask, url

HELLO = [{"role": "user", "content": "Hello"}]
#: Two of these leave half of the engine's sequences free.
LONG = {"n": 8, "max_tokens": 2000, "ignore_eos": True, "temperature": 0, "stream": True}


def test_chat_that_is_full_holds_up_neither_completions_nor_images(start):
    server = start("builtin://tiny-vision", max_concurrency=1, max_queue=0)
    chat, completions = f"{server.url}/v1/chat/completions", f"{server.url}/v1/completions"
    with ExitStack() as streams:
        for path, asked in ((chat, {"messages": HELLO}), (completions, {"prompt": "Hello"})):
            answer = streams.enter_context(httpx.stream("POST", path, json={"model": "tiny-vision", **asked, **LONG}, timeout=60))
            assert answer.status_code == 200
        for capability in ("chat", "completions"):
            assert server.metric("capability_requests_running", capability=capability) == 1
        assert server.metric("capability_requests_running", capability="vision") == 0
        short = {"model": "tiny-vision", "max_tokens": 2}
        refused = httpx.post(chat, json=short | {"messages": HELLO}, timeout=60)
        assert refused.json()["error"]["code"] == "queue_full"
        assert httpx.post(completions, json=short | {"prompt": "Hello"}, timeout=60).status_code == 429
        assert httpx.post(chat, json=short | {"messages": ask(url(1), "what is it")}, timeout=60).status_code == 200
    wait_until(lambda: server.metric("num_requests_running") == 0, "the engine let go")
    for capability, answers in (("chat", 8), ("completions", 8), ("vision", 1)):
        assert server.metric("capability_requests_running", capability=capability) == 0
        assert server.metric("capability_queue_wait_seconds_count", capability=capability) == answers


def test_a_request_waits_for_the_engine_no_longer_than_the_queue_allows(start):
    """All of the engine's sequences are a chat's; the completion has its own limiter, and the engine has no place for it."""
    server = start(max_concurrent_sequences=1, queue_timeout="300ms")
    body = {"model": "tiny-chat", "messages": HELLO, **LONG}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as stream:
        assert stream.status_code == 200
        refused = httpx.post(f"{server.url}/v1/completions", json={"model": "tiny-chat", "prompt": "Hello"}, timeout=60)
    assert refused.status_code == 503
    assert refused.json()["error"]["code"] == "queue_timeout"


async def test_who_comes_first_gets_the_shared_place_whatever_it_asks_for():
    places = Limiter(concurrency=1, max_queue=4, queue_timeout=5)
    limiters = Limiters({name: Limiter(concurrency=2, max_queue=4, queue_timeout=5, places=places) for name in ("chat", "completions")})
    served: list[str] = []

    async def work(name: str, capability: str) -> None:
        async with limiters[capability].slot():
            served.append(name)
            await asyncio.sleep(0)

    async with limiters["chat"].slot():
        tasks = []
        for name, capability in (("a", "chat"), ("b", "chat"), ("c", "completions"), ("d", "chat")):
            tasks.append(asyncio.create_task(work(name, capability)))
            await asyncio.sleep(0)
        assert limiters.by_capability() == {"chat": (2, 2), "completions": (1, 0)}
        assert places.waiting == 2, "a and c have their turn and wait for the place"
    await asyncio.gather(*tasks)
    assert served == ["a", "c", "b", "d"]
    assert (limiters.working, limiters.waiting, places.working, places.waiting) == (0, 0, 0, 0)


async def test_both_waits_together_take_no_longer_than_one_may():
    places = Limiter(concurrency=1, max_queue=4, queue_timeout=5)
    limiter = Limiter(concurrency=1, max_queue=4, queue_timeout=0.2, places=places)
    async with places.slot():
        began = time.monotonic()
        outcomes = await asyncio.gather(*(_pass(limiter) for _ in range(3)), return_exceptions=True)
        assert 0.19 < time.monotonic() - began < 2
    assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
    assert (limiter.working, limiter.waiting, places.working, places.waiting) == (0, 0, 0, 0)
    async with asyncio.timeout(5):
        await _pass(limiter)


async def test_a_request_that_is_cancelled_between_both_waits_gives_back_what_it_has():
    places = Limiter(concurrency=1, max_queue=4, queue_timeout=5)
    limiter = Limiter(concurrency=1, max_queue=4, queue_timeout=5, places=places)
    async with places.slot():
        task = asyncio.create_task(_pass(limiter))
        await asyncio.sleep(0)
        assert (limiter.working, places.waiting) == (1, 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (limiter.working, places.waiting) == (0, 0)


async def _pass(limiter: Limiter) -> None:
    async with limiter.slot():
        pass
