"""Token-budget batching: the items of all requests that wait are computed together, each request getting its turn.

One thread computes. When it is free it takes one item of each waiting request in turn until the budget is full, so that a request of
thousands does not hold up one of a few. Nothing waits for a batch to fill. Models that pad get items of about one length at a time.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

import numpy as np
from modelyard.api.errors import InternalError, Unavailable
from numpy.typing import NDArray

from modelyard_runtime.hardware import is_out_of_memory

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Sized)
Row = NDArray[np.float32]
Outcome = Row | Exception

_COOLDOWN = 30.0
_EMPTY: Row = np.empty(0, dtype=np.float32)


class Watch(Protocol):
    """Who is told about batches. Called on the event loop."""

    def batched(self, capability: str, seconds: float) -> None:
        """A request's items waited ``seconds`` for their batch."""
        ...

    def computed(self, capability: str, items: int, tokens: int) -> None:
        """A batch was computed."""
        ...


@dataclass(eq=False, slots=True)
class Job(Generic[T]):
    """The items of one request, in queues by length class, and their rows. ``done``: nobody waits for it any more."""

    capability: str
    result: asyncio.Future[list[Row]]
    rows: list[Row]
    missing: int
    queues: dict[int, deque[tuple[int, T]]]
    arrived: float = field(default_factory=time.monotonic)
    done: bool = False

    @property
    def left(self) -> int:
        """Items that wait."""
        return sum(map(len, self.queues.values()))

    def pop(self, bucket: int) -> tuple[int, T]:
        """Removes and returns the oldest item of a bucket, with its place in the request."""
        queue = self.queues[bucket]
        item = queue.popleft()
        if not queue:
            del self.queues[bucket]
        return item


@dataclass(frozen=True, slots=True)
class Entry(Generic[T]):
    """An item on its way through a batch."""

    job: Job[T]
    index: int
    item: T


def bucket(length: int) -> int:
    """Returns the length class of a text that is padded: powers of two from 16 tokens on, so that at most half of a batch is padding."""
    return max(4, (length - 1).bit_length())


class Waiting(Generic[T]):
    """Requests that wait, in the order of their turns. ``padded``: a batch costs its longest item as often as it has items."""

    def __init__(self, *, padded: bool) -> None:
        self._padded = padded
        self._jobs: deque[Job[T]] = deque()

    @property
    def items(self) -> int:
        """Items that wait."""
        return sum(job.left for job in self._jobs if not job.done)

    def job(self, items: Sequence[T], capability: str, result: asyncio.Future[list[Row]]) -> Job[T]:
        """Queues the items of a request."""
        queues: dict[int, deque[tuple[int, T]]] = {}
        for index, item in enumerate(items):
            queues.setdefault(bucket(len(item)) if self._padded else 0, deque()).append((index, item))
        job = Job(capability, result, [_EMPTY] * len(items), len(items), queues)
        self._jobs.append(job)
        return job

    def take(self, budget: int) -> list[Entry[T]]:
        """Removes and returns the next batch: at most ``budget`` tokens but at least one item; empty when nothing waits.

        The request whose turn it is gives an item, then each other one of the same length class, and so on around. What clients that
        left had waiting is dropped.
        """
        self._jobs = deque(job for job in self._jobs if job.queues and not job.done)
        if not self._jobs:
            return []
        chosen = next(iter(self._jobs[0].queues))
        batch = self._fill([job for job in self._jobs if chosen in job.queues], chosen, budget)
        self._jobs.rotate(-1)
        return batch

    def drop(self) -> list[Job[T]]:
        """Removes and returns the requests that have items waiting."""
        jobs, self._jobs = self._jobs, deque()
        return [job for job in jobs if job.queues]

    def _fill(self, jobs: Sequence[Job[T]], chosen: int, budget: int) -> list[Entry[T]]:
        batch: list[Entry[T]] = []
        longest = total = 0
        while jobs:
            for job in jobs:
                length = len(job.queues[chosen][0][1])
                longest, total = max(longest, length), total + length
                if batch and (longest * (len(batch) + 1) if self._padded else total) > budget:
                    return batch
                batch.append(Entry(job, *job.pop(chosen)))
            jobs = [job for job in jobs if chosen in job.queues]
        return batch


class Budget:
    """Tokens of a batch: halved when memory runs out, doubled again after each ``cooldown`` seconds in which it did not."""

    def __init__(self, tokens: int, *, cooldown: float = _COOLDOWN, clock: Callable[[], float] = time.monotonic):
        self._full = self._now = tokens
        self._cooldown = cooldown
        self._clock = clock
        self._changed = clock()

    @property
    def tokens(self) -> int:
        """What a batch may have now."""
        if self._now < self._full and self._clock() - self._changed >= self._cooldown:
            self._now = min(self._full, self._now * 2)
            self._changed = self._clock()
        return self._now

    def halve(self, used: int) -> None:
        """A batch of ``used`` tokens did not fit."""
        self._now = max(1, min(self._now, used) // 2)
        self._changed = self._clock()
        logger.warning("a batch did not fit the memory", extra={"tokens": used, "budget": self._now})


class Batcher(Generic[T]):
    """Computes rows of numbers in batches on a thread of its own. Used from one event loop.

    ``compute`` gets items and returns a row for each, [items, numbers]. An item for which it raises, or whose row is not finite, fails
    its own request alone.
    """

    def __init__(
        self, compute: Callable[[Sequence[T]], Row], *, budget: Budget, padded: bool, watch: Watch | None = None, name: str = "batch"
    ):
        self._compute = compute
        self._budget = budget
        self._watch = watch
        self._waiting: Waiting[T] = Waiting(padded=padded)
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopped = False

    @property
    def waiting(self) -> int:
        """Items that wait."""
        with self._changed:
            return self._waiting.items

    async def submit(self, items: Sequence[T], capability: str = "") -> list[Row]:
        """Returns the items' rows, in order. Cancelling it takes the items that were not begun out of the queue."""
        if not items:
            return []
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
            self._thread.start()
        with self._changed:
            job = self._waiting.job(items, capability, loop.create_future())
            self._changed.notify()
        try:
            return await job.result
        finally:
            job.done = True

    async def stop(self) -> None:
        """Ends the thread after the batch that it computes; whoever still waits is cancelled."""
        with self._changed:
            self._stopped = True
            left = self._waiting.drop()
            self._changed.notify()
        for job in left:
            job.result.cancel()
        if self._loop is not None:
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        assert self._loop is not None
        while batch := self._next():
            begun = time.monotonic()
            outcomes = self._work(batch)
            self._loop.call_soon_threadsafe(self._settle, batch, outcomes, begun)

    def _next(self) -> list[Entry[T]]:
        """Returns the next batch as soon as there is one; none when it is stopped."""
        with self._changed:
            while not self._stopped:
                if batch := self._waiting.take(self._budget.tokens):
                    return batch
                self._changed.wait()
        return []

    def _work(self, batch: list[Entry[T]]) -> list[Outcome]:
        """Computes a batch: in halves when memory runs out, item by item when it fails otherwise, so that a bad one fails alone."""
        try:
            rows = self._compute([entry.item for entry in batch])
            return [row if np.isfinite(row).all() else _overflow() for row in rows]
        except Exception as error:  # noqa: BLE001 - whatever the model raises is the request's to report
            failure = error
        if is_out_of_memory(failure):
            self._budget.halve(sum(len(entry.item) for entry in batch))
            if len(batch) == 1:
                return [_too_large(len(batch[0].item))]
            half = len(batch) // 2
            return [*self._work(batch[:half]), *self._work(batch[half:])]
        if len(batch) == 1:
            return [failure]
        return [outcome for entry in batch for outcome in self._work([entry])]

    def _settle(self, batch: list[Entry[T]], outcomes: Iterable[Outcome], begun: float) -> None:
        if self._watch is not None:
            for job in dict.fromkeys(entry.job for entry in batch):
                self._watch.batched(job.capability, begun - job.arrived)
            self._watch.computed(batch[0].job.capability, len(batch), sum(len(entry.item) for entry in batch))
        for entry, outcome in zip(batch, outcomes, strict=True):
            _deliver(entry.job, entry.index, outcome)


def _deliver(job: Job[T], index: int, outcome: Outcome) -> None:
    if job.result.done():
        return
    if isinstance(outcome, Exception):
        job.done = True  # the rest of the request is of no use to anyone
        job.result.set_exception(outcome)
        return
    job.rows[index] = outcome
    job.missing -= 1
    if not job.missing:
        job.result.set_result(job.rows)


def _overflow() -> InternalError:
    return InternalError("The model's values for this text are not numbers: they overflow its data type. Change the text.")


def _too_large(tokens: int) -> Unavailable:
    return Unavailable(
        f"The memory does not hold a text of {tokens} tokens now. Shorten it, or send it again later.", code="out_of_memory", retry_after=5
    )
