"""Work on threads of its own that a process which is told to end does not wait for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from modelyard_runtime.logs import in_context

_THREAD = "loader"
T = TypeVar("T")


async def on_thread(work: Callable[[], T]) -> T:
    """Runs ``work`` on a daemon thread and returns its value, or raises what it raises."""
    loop = asyncio.get_running_loop()
    result: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(lambda: None if result.done() else settle())

    def run() -> None:
        try:
            value = work()
        except BaseException as error:  # noqa: BLE001 - handed over to the event loop
            failure = error
            tell(lambda: result.set_exception(failure))
        else:
            tell(lambda: result.set_result(value))

    threading.Thread(target=in_context(run), name=_THREAD, daemon=True).start()
    return await result


def work_goes_on() -> bool:
    """Whether such a thread still works, though nobody waits for it any more."""
    return any(thread.name == _THREAD for thread in threading.enumerate())
