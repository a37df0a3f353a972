"""Several streams as one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merge(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yields (stream's index, item) as items come. The first error ends all streams; so does closing the iterator.

    What waits here is what the streams have yielded, and is bounded as they are.
    """
    arrived: asyncio.Queue[tuple[int, T] | None] = asyncio.Queue()

    async def read(index: int, stream: AsyncGenerator[T, None]) -> None:
        async with aclosing(stream):
            async for item in stream:
                arrived.put_nowait((index, item))

    async def read_all() -> None:
        try:
            async with asyncio.TaskGroup() as readers:
                for index, stream in enumerate(streams):
                    readers.create_task(read(index, stream))
        finally:
            arrived.put_nowait(None)

    reading = asyncio.create_task(read_all())
    try:
        while (item := await arrived.get()) is not None:
            yield item
        await _outcome(reading)
    finally:
        reading.cancel()
        await asyncio.wait([reading])


async def _outcome(reading: asyncio.Task[None]) -> None:
    try:
        await reading
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
