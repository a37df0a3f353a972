"""The work queue: keys, each at most once, the urgent ones first.

A key that is added while it is worked on is worked on again afterwards, never twice at a time. A failed key waits 1 s, then twice
as long each time, 60 s at most; a new reason to look at it ends the wait.
"""

import asyncio
import heapq
import time
from enum import IntEnum

from modelyard.controller.types import Key

BACKOFF_FIRST = 1.0
BACKOFF_LONGEST = 60.0


class Urgency(IntEnum):
    """What goes first. New and changed models must not wait behind thousands that are only looked at again."""

    SCALING = 0
    CHANGED = 1
    RESYNC = 2


class WorkQueue:
    """Keys that wait to be reconciled; workers loop over `get` and `done`."""

    def __init__(self) -> None:
        self._waiting: dict[Key, tuple[Urgency, float]] = {}  # urgency and since when, by key
        self._heap: list[tuple[Urgency, float, Key]] = []  # entries that differ from _waiting are stale
        self._later: dict[Key, asyncio.TimerHandle] = {}
        self._working: set[Key] = set()
        self._again: dict[Key, Urgency] = {}
        self._failures: dict[Key, int] = {}
        self._wakers: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def oldest_age(self) -> float:
        """Seconds that the longest-waiting key has been due; 0.0 when none waits."""
        now = time.monotonic()
        return now - min((since for _, since in self._waiting.values()), default=now)

    def add(self, key: Key, urgency: Urgency = Urgency.CHANGED, *, after: float = 0.0) -> None:
        """Marks a key as due, at once or ``after`` seconds. The earliest time and the highest urgency asked for hold."""
        if after > 0:
            self._add_later(key, urgency, after)
            return
        if timer := self._later.pop(key, None):
            timer.cancel()
        if key in self._working:
            self._again[key] = min(urgency, self._again.get(key, urgency))
            return
        known = self._waiting.get(key)
        if known is not None and known[0] <= urgency:
            return
        since = known[1] if known else time.monotonic()
        self._waiting[key] = (urgency, since)
        heapq.heappush(self._heap, (urgency, since, key))
        self._wake()

    async def get(self) -> Key:
        """Waits for the most urgent key and takes it; the caller ends with `done`."""
        while True:
            while self._heap:
                urgency, since, key = heapq.heappop(self._heap)
                if self._waiting.get(key) == (urgency, since):
                    del self._waiting[key]
                    self._working.add(key)
                    return key
            waker = asyncio.get_running_loop().create_future()
            self._wakers.append(waker)
            try:
                await waker
            finally:
                if waker in self._wakers:
                    self._wakers.remove(waker)

    def done(self, key: Key, *, failed: bool = False) -> None:
        """Gives a key back. It is due again at once when something happened meanwhile, and later when it failed."""
        self._working.discard(key)
        if failed:
            self._failures[key] = failures = self._failures.get(key, 0) + 1
            delay = min(BACKOFF_FIRST * 2 ** min(failures - 1, 10), BACKOFF_LONGEST)
        else:
            self._failures.pop(key, None)
        if (urgency := self._again.pop(key, None)) is not None:
            self.add(key, urgency)
        elif failed:
            self._add_later(key, Urgency.RESYNC, delay)

    def forget(self, key: Key) -> None:
        """Drops a key for good, its failures too."""
        if timer := self._later.pop(key, None):
            timer.cancel()
        self._waiting.pop(key, None)
        self._again.pop(key, None)
        self._failures.pop(key, None)

    def _add_later(self, key: Key, urgency: Urgency, after: float) -> None:
        loop = asyncio.get_running_loop()
        if key in self._waiting:
            return
        if timer := self._later.get(key):
            if timer.when() <= loop.time() + after:
                return
            timer.cancel()
        self._later[key] = loop.call_later(after, self._due, key, urgency)

    def _due(self, key: Key, urgency: Urgency) -> None:
        del self._later[key]
        self.add(key, urgency)

    def _wake(self) -> None:
        while self._wakers:
            waker = self._wakers.pop(0)
            if not waker.done():
                waker.set_result(None)
                return
