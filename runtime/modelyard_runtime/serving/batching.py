"""Token-budget batching: texts that wait are computed together with others of about their length.

While the one compute thread is busy, texts collect; when it is free, the oldest of them and as many of its length bucket as the budget
allows make the next batch. Nothing waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Compute = Callable[[Sequence[list[int]]], Vector]


@dataclass(eq=False, slots=True)
class Item:
    """A text in token ids, and where its vector goes. ``arrival`` orders texts by age."""

    arrival: int
    ids: list[int]
    result: asyncio.Future[Vector]


def bucket(length: int) -> int:
    """Returns the length class of a text: powers of two from 16 tokens on, so that at most half of a batch is padding."""
    return max(4, (length - 1).bit_length())


class Waiting:
    """Texts that wait, in one queue for each length bucket."""

    def __init__(self) -> None:
        self._queues: dict[int, deque[Item]] = {}
        self._arrivals = itertools.count()

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def add(self, ids: list[int], result: asyncio.Future[Vector]) -> None:
        """Queues a text."""
        self._queues.setdefault(bucket(len(ids)), deque()).append(Item(next(self._arrivals), ids, result))

    def take(self, budget: int) -> list[Item]:
        """Removes and returns the next batch: the oldest text and those of its bucket that come after it.

        At most ``budget`` tokens with padding, but at least one text; empty when nothing waits. Texts whose clients left are dropped.
        """
        for queue in self._queues.values():
            while queue and queue[0].result.done():
                queue.popleft()
        filled = [queue for queue in self._queues.values() if queue]
        return _fill(min(filled, key=lambda queue: queue[0].arrival), budget) if filled else []


def _fill(queue: deque[Item], budget: int) -> list[Item]:
    batch: list[Item] = []
    longest = 0
    while queue:
        longest = max(longest, len(queue[0].ids))
        if batch and longest * (len(batch) + 1) > budget:
            break
        item = queue.popleft()
        if not item.result.done():
            batch.append(item)
    return batch


class Batcher:
    """Computes vectors in batches on one thread. Used from one event loop."""

    def __init__(self, compute: Compute, *, budget: int):
        self._compute = compute
        self._budget = budget
        self._waiting = Waiting()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="embed")
        self._worker: asyncio.Task[None] | None = None
        self.batches = 0

    @property
    def waiting(self) -> int:
        """Texts that wait."""
        return len(self._waiting)

    async def submit(self, texts: Sequence[list[int]]) -> list[Vector]:
        """Returns the texts' vectors, in order. Cancelling it takes the texts that were not begun out of the queue."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name="batcher")
        loop = asyncio.get_running_loop()
        results: list[asyncio.Future[Vector]] = [loop.create_future() for _ in texts]
        for ids, result in zip(texts, results, strict=True):
            self._waiting.add(ids, result)
        self._arrived.set()
        return await asyncio.gather(*results)

    async def stop(self) -> None:
        """Ends the worker. The caller has drained it: nobody waits for a text any more."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        self._executor.shutdown(wait=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._waiting.take(self._budget)
            if batch:
                await self._work(batch)
            else:
                self._arrived.clear()

    async def _work(self, batch: list[Item]) -> None:
        """Computes a batch. When it fails, each text is tried alone, so that a bad one fails alone."""
        self.batches += 1
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, [item.ids for item in batch])
        except Exception as error:  # noqa: BLE001 - whatever the model raises is the request's to report
            if len(batch) == 1:
                _settle(batch[0].result, error)
            else:
                for item in batch:
                    await self._work([item])
            return
        for item, vector in zip(batch, vectors, strict=True):
            _settle(item.result, vector)


def _settle(result: asyncio.Future[Vector], value: Vector | Exception) -> None:
    if result.done():
        return
    if isinstance(value, Exception):
        result.set_exception(value)
    else:
        result.set_result(value)
