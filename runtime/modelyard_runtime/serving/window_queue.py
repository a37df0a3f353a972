"""Windows of sound that wait for the model: those of equal tasks, whoever sent them, are read in one batch.

Nothing waits for a batch to fill. One thread computes, apart from those of other models; clients put in a few windows at a time, so
that an hour of sound does not stand before a sentence.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from modelyard_runtime.speech.base import Samples, Segment, SpeechModel, Task

logger = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Item:
    samples: Samples
    task: Task
    result: asyncio.Future[list[Segment]]


class WindowQueue:
    """A model behind its thread. Used from one event loop."""

    def __init__(self, model: SpeechModel):
        self._model = model
        self._waiting: deque[_Item] = deque()
        self._arrived = asyncio.Event()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="speech")
        self._worker: asyncio.Task[None] | None = None

    def submit(self, samples: Samples, task: Task) -> asyncio.Future[list[Segment]]:
        """Returns the segments of a window to come. Cancelling it takes the window out, unless it is being read."""
        if self._worker is None:
            self._worker = asyncio.create_task(self._run(), name="window-queue")
        result: asyncio.Future[list[Segment]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Item(samples, task, result))
        self._arrived.set()
        return result

    async def detect_language(self, samples: Samples) -> str:
        """Returns the code of the language spoken in a window."""
        return await asyncio.get_running_loop().run_in_executor(self._executor, self._model.detect_language, samples)

    async def stop(self) -> None:
        """Ends the thread; what still waits is cancelled."""
        if self._worker is not None:
            self._worker.cancel()
            await asyncio.wait([self._worker])
        for item in self._waiting:
            item.result.cancel()
        await asyncio.to_thread(self._executor.shutdown, wait=True)

    async def _run(self) -> None:
        while True:
            await self._arrived.wait()
            batch = self._take()
            if batch:
                await self._read(batch)
            else:
                self._arrived.clear()

    def _take(self) -> list[_Item]:
        """Removes and returns the oldest window and others of its task, in order; empty when nothing waits."""
        wanted = [item for item in self._waiting if not item.result.done()]
        batch = [item for item in wanted if item.task == wanted[0].task][: self._model.batch]
        taken = set(map(id, batch))
        self._waiting = deque(item for item in wanted if id(item) not in taken)
        return batch

    async def _read(self, batch: Sequence[_Item]) -> None:
        """Reads a batch. When it fails each window is tried alone, so that a bad one, or too many at once, fails alone."""
        windows = [item.samples for item in batch]
        try:
            found = await asyncio.get_running_loop().run_in_executor(self._executor, self._model.transcribe, windows, batch[0].task)
        except Exception as error:  # noqa: BLE001 - whatever the model raises is the request's to report
            if len(batch) == 1:
                _settle(batch[0], error)
                return
            logger.warning("%d windows could not be read at once: %s", len(batch), error)
            for item in batch:
                await self._read([item])
            return
        for item, segments in zip(batch, found, strict=True):
            _settle(item, segments)


def _settle(item: _Item, outcome: list[Segment] | Exception) -> None:
    if item.result.done():
        return
    if isinstance(outcome, Exception):
        item.result.set_exception(outcome)
    else:
        item.result.set_result(outcome)
