"""A bounded queue before bounded work: what does not fit is refused at once, with the reason."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

from modelyard.api.errors import TooManyRequests, Unavailable

#: Texts with more characters for each token of the context are refused unread: no vocabulary's tokens are that long on average.
CHARACTERS_PER_TOKEN = 256


def closing() -> Unavailable:
    """Returns what requests get that come when the server takes no more."""
    return Unavailable("This server is shutting down. Send the request again; another one will take it.", code="draining", retry_after=1)


class Gate(Protocol):
    """What a model's requests pass, as whoever ends the model sees it."""

    def close(self) -> None:
        """Refuses new requests; those that wait or work go on."""
        ...

    async def drained(self) -> None:
        """Returns when no request waits or works."""
        ...


class Limiter:
    """Lets ``concurrency`` requests work and ``max_queue`` wait, first come, first served. Used from one event loop.

    ``places`` are those of what several limiters feed: a request that has its turn here waits for one of them too, as long as both waits
    together take no more than ``queue_timeout`` seconds.
    """

    def __init__(self, *, concurrency: int, max_queue: int, queue_timeout: float, places: Limiter | None = None):
        self._concurrency = concurrency
        self._max_queue = max_queue
        self._queue_timeout = queue_timeout
        self._places = places
        self._queue: deque[asyncio.Future[None]] = deque()
        self._working = 0
        self._closed = False
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def working(self) -> int:
        """Requests that work."""
        return self._working

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._queue)

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Holds a slot, waiting for it at most ``queue_timeout`` seconds.

        Raises TooManyRequests when the queue is full, Unavailable when the wait was too long or the limiter is closed. A waiting
        request that is cancelled leaves the queue.
        """
        deadline = asyncio.get_running_loop().time() + self._queue_timeout
        await self._acquire(deadline)
        try:
            if self._places is None:
                yield
            else:
                await self._places._acquire(deadline)
                try:
                    yield
                finally:
                    self._places._release()
        finally:
            self._release()

    def close(self) -> None:
        """Refuses new requests; those that wait or work go on."""
        self._closed = True

    async def drained(self) -> None:
        """Returns when no request waits or works."""
        await self._idle.wait()

    def check(self) -> None:
        """Raises what `slot` would raise at once, before any work is put into a request that has no chance."""
        if self._closed:
            raise closing()
        if self._working >= self._concurrency and len(self._queue) >= self._max_queue:
            raise TooManyRequests(
                f"{self._working} requests are worked on and {len(self._queue)} wait, which is the limit. Send the request again later.",
                retry_after=1,
            )

    async def _acquire(self, deadline: float) -> None:
        self.check()
        self._idle.clear()
        if self._working < self._concurrency:
            self._working += 1
        else:
            await self._wait(deadline)

    async def _wait(self, deadline: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        try:
            async with asyncio.timeout_at(deadline):
                await turn
        except TimeoutError:
            self._leave(turn)
            raise Unavailable(
                f"The request waited {self._queue_timeout:g} s for its turn, which is the limit. Send it again later.",
                code="queue_timeout",
                retry_after=5,
            ) from None
        except asyncio.CancelledError:
            self._leave(turn)
            raise

    def _leave(self, turn: asyncio.Future[None]) -> None:
        """Takes a request that stopped waiting out of the queue, or passes on the slot that it was given meanwhile."""
        if turn.done() and not turn.cancelled():
            self._release()
        elif turn in self._queue:
            self._queue.remove(turn)

    def _release(self) -> None:
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)  # the slot changes hands
                return
        self._working -= 1
        if not self._working:
            self._idle.set()


class Limiters:
    """A limiter for each capability of a model, so that requests for one do not take the places of another's."""

    def __init__(self, limiters: Mapping[str, Limiter]):
        self._limiters = dict(limiters)

    def __getitem__(self, capability: str) -> Limiter:
        return self._limiters[capability]

    @property
    def working(self) -> int:
        """Requests that work."""
        return sum(limiter.working for limiter in self._limiters.values())

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return sum(limiter.waiting for limiter in self._limiters.values())

    def by_capability(self) -> dict[str, tuple[int, int]]:
        """Returns how many requests of each capability work, and how many wait."""
        return {name: (limiter.working, limiter.waiting) for name, limiter in self._limiters.items()}

    def close(self) -> None:
        """Refuses new requests; those that wait or work go on."""
        for limiter in self._limiters.values():
            limiter.close()

    async def drained(self) -> None:
        """Returns when no request waits or works."""
        while self.working or self.waiting:
            for limiter in self._limiters.values():
                await limiter.drained()
