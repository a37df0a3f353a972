"""The gateways' demand: one stream of JSON lines from each, summed per model.

A gateway that falls silent keeps its last word until it leaves the EndpointSlices, and while a ready one is silent nothing counts
as known; so silence can delay a scale-down and never cause one.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import aiohttp
import orjson

from modelyard.controller.projections import Gateway
from modelyard.controller.types import Demand, Key

log = logging.getLogger(__name__)

#: Lines come each second; a gateway that misses several is not heard.
SILENCE_SECONDS = 5.0
_RETRY_FIRST, _RETRY_LONGEST = 0.2, 5.0
_MAX_LINE = 4 * 2**20
_MOST_REQUESTS = 10**6


class Feed:
    """One gateway's word. Times are time.monotonic()."""

    def __init__(self, ready: bool):
        self.ready = ready
        self.heard = 0.0
        self.known_since = time.monotonic()
        self.models: dict[Key, Demand] = {}
        self.task: asyncio.Task[None] | None = None

    def silent(self, now: float) -> bool:
        """Whether its word is needed and missing; a new gateway has the same time to speak up."""
        return self.ready and now - max(self.heard, self.known_since) > SILENCE_SECONDS


class DemandFeeds:
    """Follows every gateway while open; ``on_change`` is called with the keys whose demand changed."""

    def __init__(self, on_change: Callable[[set[Key]], None]):
        self._on_change = on_change
        self._feeds: dict[str, Feed] = {}
        self._session: aiohttp.ClientSession | None = None
        self._heard_since: float | None = None

    def follow(self, gateways: frozenset[Gateway]) -> None:
        """Follows these gateways from now on, and no other; the demand of those that left goes with them."""
        ready: dict[str, bool] = {}
        for gateway in gateways:
            ready[gateway.address] = ready.get(gateway.address, False) or gateway.ready
        for address in self._feeds.keys() - ready.keys():
            self._drop(address)
        for address, is_ready in ready.items():
            if address in self._feeds:
                self._feeds[address].ready = is_ready
            else:
                self._feeds[address] = feed = Feed(is_ready)
                feed.task = asyncio.create_task(self._run(address, feed), name=f"demand of {address}")

    def demand(self, key: Key) -> Demand:
        """Returns the model's demand, summed over the gateways."""
        found = [feed.models[key] for feed in self._feeds.values() if key in feed.models]
        return Demand(
            in_flight=sum(demand.in_flight for demand in found),
            queued=sum(demand.queued for demand in found),
            oldest_queued_seconds=max((demand.oldest_queued_seconds for demand in found), default=0.0),
        )

    def heard_since(self, now: float) -> float | None:
        """Returns since when (time.monotonic()) every ready gateway has been heard without a gap; None while one is not.

        Call it each second: a gap is noticed when it is looked for.
        """
        feeds = self._feeds.values()
        if not any(feed.heard for feed in feeds) or any(feed.silent(now) for feed in feeds):
            self._heard_since = None
        elif self._heard_since is None:
            self._heard_since = now
        return self._heard_since

    async def close(self) -> None:
        """Stops following, so that what is heard later counts from then."""
        for address in tuple(self._feeds):
            self._drop(address)
        self._heard_since = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _drop(self, address: str) -> None:
        feed = self._feeds.pop(address)
        if feed.task is not None:
            feed.task.cancel()
        if feed.models:
            self._on_change(set(feed.models))

    async def _run(self, address: str, feed: Feed) -> None:
        pause = _RETRY_FIRST
        while True:
            began = time.monotonic()
            try:
                await self._read(address, feed)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as problem:
                log.info("gateway %s does not tell its demand: %s", address, problem or type(problem).__name__)
            pause = _RETRY_FIRST if feed.heard > began else min(pause * 2, _RETRY_LONGEST)
            await asyncio.sleep(pause)

    async def _read(self, address: str, feed: Feed) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(read_bufsize=_MAX_LINE)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=2.0, sock_read=SILENCE_SECONDS)
        async with self._session.get(f"http://{address}/demand", params={"watch": "1"}, timeout=timeout) as response:
            response.raise_for_status()
            async for line in response.content:
                before, feed.models = feed.models, parse(line)
                feed.heard = time.monotonic()  # by a line that could be read: garbage tells nothing
                changed = {key for key in before.keys() | feed.models.keys() if _load(before, key) != _load(feed.models, key)}
                if changed:
                    self._on_change(changed)


def parse(line: bytes) -> dict[Key, Demand]:
    """Parses a line of the feed; raises ValueError on anything else."""
    try:
        models: dict[str, dict[str, Any]] = orjson.loads(line)["models"]
        return {_key(name): _demand(told) for name, told in models.items() if told["inFlight"] or told["queued"]}
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"not a demand line: {line[:200]!r}") from problem


def _key(name: str) -> Key:
    namespace, _, rest = name.partition("/")
    return Key(namespace, rest)


def _demand(told: dict[str, Any]) -> Demand:
    return Demand(_count(told["inFlight"]), _count(told["queued"]), float(told.get("oldestQueuedSeconds", 0.0)))


def _count(told: Any) -> int:
    """Returns a number of requests. A negative one would hide another gateway's, and one beyond reason is a fault, not a demand."""
    if type(told) is not int or not 0 <= told <= _MOST_REQUESTS:
        raise TypeError
    return told


def _load(models: dict[Key, Demand], key: Key) -> int:
    demand = models.get(key)
    return 0 if demand is None else demand.in_flight + demand.queued
