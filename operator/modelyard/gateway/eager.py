"""Coroutines that run at once as far as they can, and as a task from their first wait on.

A task takes its first step one turn of the event loop after it was made. Most requests wait for nothing before they are on their way to a
replica, and a turn is a good part of what the gateway adds to them. From Python 3.12 on asyncio has tasks of this kind itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import Any


def start(coroutine: Coroutine[Any, None, None]) -> asyncio.Task[None] | None:
    """Runs a coroutine up to its first wait; returns the task that does the rest, or None when nothing is left to do.

    There is no current task yet in that first part, so that `asyncio.timeout` has to come after a wait.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return asyncio.get_running_loop().create_task(_Begun(coroutine, awaited))


class _Begun(Generator[Any, None, None], Coroutine[Any, None, None]):
    """A coroutine that already waits, for a task to take over: the task's first step learns for what."""

    __slots__ = ("_awaited", "_coroutine", "_taken_over")

    def __init__(self, coroutine: Coroutine[Any, None, None], awaited: Any):
        self._coroutine = coroutine
        self._awaited = awaited
        self._taken_over = False

    def send(self, value: None) -> Any:
        """Goes on to the next wait."""
        if self._taken_over:
            return self._coroutine.send(value)
        self._taken_over = True
        return self._awaited

    def throw(self, *error: Any) -> Any:
        """Raises an error in the coroutine."""
        self._taken_over = True
        return self._coroutine.throw(*error)

    def close(self) -> None:
        """Ends the coroutine."""
        self._coroutine.close()

    def __await__(self) -> _Begun:
        """Returns itself: it is a generator of what it waits for."""
        return self
