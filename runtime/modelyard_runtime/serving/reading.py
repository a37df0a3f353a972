"""The windows of one recording through the model's queue: a few ahead, their segments in order, overlaps said once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace

from modelyard_runtime.serving.window_queue import WindowQueue
from modelyard_runtime.speech.base import Segment, Task
from modelyard_runtime.speech.listening import Listened
from modelyard_runtime.speech.merge import join
from modelyard_runtime.speech.windows import Window

_Coming = deque[asyncio.Future[list[Segment]]]


async def read(listened: Listened, task: Task, queue: WindowQueue, ahead: int) -> AsyncGenerator[list[Segment], None]:
    """Yields the segments of one window after the other. Closing it takes the windows that were not begun out of the queue."""
    windows = listened.windows
    coming: _Coming = deque()

    def submit(index: int) -> None:
        if index < len(windows):
            window = windows[index]
            coming.append(queue.submit(window.samples(listened.recording), _task(task, windows, index)))

    for index in range(ahead):
        submit(index)
    held: list[Segment] = []
    try:
        for index, window in enumerate(windows):
            found = [listened.place(window, segment) for segment in await coming.popleft()]
            submit(index + ahead)
            if window.overlap:
                held, found = join(held, found, window.shared)
                yield held
            if _goes_on(windows, index):
                held = found
            else:
                yield found
    finally:
        for result in coming:
            result.cancel()


def _task(task: Task, windows: Sequence[Window], index: int) -> Task:
    """Returns the task of a window: where windows overlap, the times of words are needed to put them together."""
    return replace(task, words=True) if windows[index].overlap or _goes_on(windows, index) else task


def _goes_on(windows: Sequence[Window], index: int) -> bool:
    """Whether the next window begins within this one."""
    return index + 1 < len(windows) and windows[index + 1].overlap > 0
