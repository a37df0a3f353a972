"""The informer through what API servers do: expiry, crashes, errors, silence."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from modelyard.kube import informer as module
from modelyard.kube.client import KubeClient, Resource
from modelyard.kube.informer import Informer

Change = tuple[str, Any, Any]


class Watched:
    """An informer of ``data``, with its changes as a queue."""

    def __init__(self, client: KubeClient):
        self.changes: asyncio.Queue[Change] = asyncio.Queue()
        self.informer: Informer[int] = Informer(
            client,
            Resource("v1", "things"),
            project=lambda found: found.get("data"),
            on_change=lambda key, old, new: self.changes.put_nowait((key.name, old, new)),
        )

    async def next(self) -> Change:
        return await asyncio.wait_for(self.changes.get(), 10)


@pytest.fixture
async def watched(api: Any, client: KubeClient, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watched]:
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.01)
    monkeypatch.setattr(module, "BACKOFF_LONGEST", 0.05)
    await api.put("a", data=1)
    await api.put("other")  # projected to None: left out
    made = Watched(client)
    task = asyncio.create_task(made.informer.run())
    await asyncio.wait_for(made.informer.synced.wait(), 10)
    assert await made.next() == ("a", None, 1)
    await asyncio.wait_for(api.watching.acquire(), 10)
    yield made
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


async def test_it_follows_changes(api: Any, watched: Watched) -> None:
    await api.put("b", data=2)
    assert await watched.next() == ("b", None, 2)
    await api.put("b", data=2, other=1)  # nothing that is kept: no call
    await api.put("b", data=3)
    assert await watched.next() == ("b", 2, 3)
    await api.drop("a")
    assert await watched.next() == ("a", 1, None)
    assert watched.informer.records == {("ns", "b"): 3}
    assert watched.informer.get("ns", "b") == 3


async def test_an_object_that_is_no_longer_kept_goes(api: Any, watched: Watched) -> None:
    await api.put("a")
    assert await watched.next() == ("a", 1, None)


async def test_a_broken_connection_is_resumed_without_a_list(api: Any, watched: Watched) -> None:
    lists = sum("watch" not in request.query for request in api.requests)
    api.cut()
    await api.put("b", data=2)
    assert await watched.next() == ("b", None, 2)
    assert sum("watch" not in request.query for request in api.requests) == lists


async def test_an_expired_version_is_listed_anew(api: Any, watched: Watched) -> None:
    await api.put("b", data=2)
    assert await watched.next() == ("b", None, 2)
    api.failures = [api.failure(503, "ServiceUnavailable") for _ in range(3)]  # nothing is seen meanwhile
    api.cut()
    await api.drop("a")
    await api.put("c", data=3)
    api.forget()
    assert sorted([await watched.next(), await watched.next()]) == [("a", 1, None), ("c", None, 3)]
    assert watched.informer.records == {("ns", "b"): 2, ("ns", "c"): 3}


async def test_a_list_that_expires_between_pages_starts_again(api: Any, client: KubeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BACKOFF_FIRST", 0.01)
    for number in range(1100):
        await api.put(f"a{number}", data=number)
    api.page_expires = True
    made = Watched(client)
    task = asyncio.create_task(made.informer.run())
    await asyncio.wait_for(made.informer.synced.wait(), 20)
    assert len(made.informer.records) == 1100
    task.cancel()


async def test_errors_are_waited_out_and_records_stay(api: Any, watched: Watched) -> None:
    api.failures = [api.failure(500, "InternalError"), api.failure(429, "TooManyRequests"), api.failure(401, "Unauthorized")]
    api.cut()
    await asyncio.wait_for(api.watching.acquire(), 10)
    assert watched.informer.records == {("ns", "a"): 1}
    await api.put("a", data=5)
    assert await watched.next() == ("a", 1, 5)


async def test_bookmarks_prove_life(api: Any, watched: Watched) -> None:
    before = watched.informer.last_seen
    await api.bookmark()
    await api.put("b", data=2)
    assert await watched.next() == ("b", None, 2)
    assert watched.informer.last_seen > before
    assert watched.informer.age < 10
    assert ("", "") not in watched.informer.records


async def test_a_defect_of_the_owner_is_not_hidden(api: Any, client: KubeClient) -> None:
    await api.put("a")
    broken: Informer[int] = Informer(client, Resource("v1", "things"), project=lambda found: found["nothing"])
    with pytest.raises(KeyError, match="nothing"):
        await asyncio.wait_for(broken.run(), 10)
    assert broken.age == float("inf")
