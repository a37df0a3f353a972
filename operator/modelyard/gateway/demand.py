"""What the autoscaler needs to know: per model, requests in flight and waiting."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from modelyard.gateway.balancer import Group

_LEAST_INTERVAL = 0.05
_LONGEST_INTERVAL = 1.0


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """Requests of one model in this gateway."""

    in_flight: int
    queued: int
    oldest_queued_seconds: float


class Changes:
    """Tells whoever follows the demand that it changed. Touching costs next to nothing while nobody does."""

    def __init__(self) -> None:
        self._followers: set[asyncio.Event] = set()

    def touch(self) -> None:
        """Notes a change."""
        for event in self._followers:
            event.set()

    async def follow(self) -> AsyncGenerator[None]:
        """Yields at once, then on each change, at most 20 times a second, and each second."""
        event = asyncio.Event()
        self._followers.add(event)
        try:
            while True:
                event.clear()
                yield
                await asyncio.sleep(_LEAST_INTERVAL)
                try:
                    async with asyncio.timeout(_LONGEST_INTERVAL - _LEAST_INTERVAL):
                        await event.wait()
                except TimeoutError:
                    pass
        finally:
            self._followers.discard(event)


def snapshot(groups: dict[str, Group], now: float) -> dict[str, ModelDemand]:
    """Returns the demand by model; a model without any is left out. ``now`` is on the monotonic clock."""
    return {key: _of(group, now) for key, group in groups.items() if group.in_flight or group.room.waiting}


def to_line(demand: dict[str, ModelDemand], wall_clock: Callable[[], float] = time.time) -> bytes:
    """Returns a line of the demand feed."""
    models = {
        key: {"inFlight": one.in_flight, "queued": one.queued, "oldestQueuedSeconds": round(one.oldest_queued_seconds, 3)}
        for key, one in demand.items()
    }
    return orjson.dumps({"time": wall_clock(), "models": models}) + b"\n"


def _of(group: Group, now: float) -> ModelDemand:
    since = group.room.oldest_since()
    return ModelDemand(group.in_flight, group.room.waiting, 0.0 if since is None else now - since)
