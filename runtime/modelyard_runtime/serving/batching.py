"""Token-budget batching: texts that wait are computed together with others of about their length.

While the one compute thread is busy, texts collect; when it is free, the oldest of them and as many of its length bucket as the budget
allows make the next batch. Nothing waits for a batch to fill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float32]
Compute = Callable[[Sequence[list[int]]], Vector]


@dataclass(eq=False, slots=True)
class Item:
    """A text that waits, in token ids, and where its vector goes."""

    ids: list[int]
    result: asyncio.Future[Vector]


def bucket(length: int) -> int:
    """Returns the length class of a text: powers of two from 16 tokens on, so that at most half of a batch is padding."""
    return max(4, (length - 1).bit_length())


def pick(waiting: Sequence[Item], budget: int) -> list[Item]:
    """Returns the next batch, oldest first: at most ``budget`` tokens with padding, at least one text. ``waiting`` is not empty."""
    wanted = bucket(len(waiting[0].ids))
    batch: list[Item] = []
    longest = 0
    for item in waiting:
        if bucket(len(item.ids)) != wanted:
            continue
        longest = max(longest, len(item.ids))
        if batch and longest * (len(batch) + 1) > budget:
            break
        batch.append(item)
    return batch


class Batcher:
    """Computes vectors in batches on one thread. Used from one event loop."""

    def __init__(self, compute: Compute, *, budget: int):
        self._compute = compute
        self._budget = budget
        self._waiting: list[Item] = []
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
        items = [Item(ids, loop.create_future()) for ids in texts]
        self._waiting += items
        self._arrived.set()
        return await asyncio.gather(*(item.result for item in items))

    async def stop(self) -> None:
        """Ends the worker; texts that wait are cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        for item in self._waiting:
            item.result.cancel()
        self._executor.shutdown(wait=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            self._waiting = [item for item in self._waiting if not item.result.done()]
            if not self._waiting:
                self._arrived.clear()
                continue
            batch = pick(self._waiting, self._budget)
            taken = set(map(id, batch))
            self._waiting = [item for item in self._waiting if id(item) not in taken]
            await self._work(batch)

    async def _work(self, batch: list[Item]) -> None:
        self.batches += 1
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._executor, self._compute, [item.ids for item in batch])
        except Exception as error:  # noqa: BLE001 - whatever the model raises is the requests' to report
            for item in batch:
                if not item.result.done():
                    item.result.set_exception(error)
            return
        for item, vector in zip(batch, vectors, strict=True):
            if not item.result.done():
                item.result.set_result(vector)
