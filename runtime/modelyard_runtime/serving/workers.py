"""Threads for what is done beside a model: reading texts, cutting up images. Few of them, with a bounded queue before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modelyard_runtime.logs import run_on
from modelyard_runtime.serving.limiter import Limiter

T = TypeVar("T")


class Workers:
    """``threads`` for one kind of work; ``waiting`` may wait for them, each ``timeout`` seconds. Used from one event loop."""

    def __init__(self, name: str, threads: int, *, waiting: int, timeout: float):
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._limiter = Limiter(concurrency=threads, max_queue=waiting, queue_timeout=timeout)

    async def run(self, work: Callable[[], T]) -> T:
        """Returns what ``work`` returns, and raises what it raises; TooManyRequests or Unavailable where its turn does not come."""
        async with self._limiter.slot():
            return await run_on(self._threads, work)

    def close(self) -> None:
        """Ends the threads, after what they do; what waits is dropped. Blocks."""
        self._threads.shutdown(wait=True, cancel_futures=True)
