"""The start of a process: load on a thread, warm up, open the doors."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TypeVar

from modelyard_runtime.errors import Crashed, OutOfMemory, RuntimeFailed, WarmupFailed
from modelyard_runtime.progress import Phase, Step, Stopped
from modelyard_runtime.serving.families import Service
from modelyard_runtime.serving.loading import load
from modelyard_runtime.serving.runtime import Runtime

logger = logging.getLogger(__name__)

_THREAD = "loader"
T = TypeVar("T")


async def start(runtime: Runtime) -> None:
    """Makes the runtime ready, or notes why it cannot be."""
    try:
        loaded = await _on_thread(lambda: load(runtime.settings, runtime.lifecycle.report))
        runtime.lifecycle.report(Step(Phase.WARMUP))
        await _warm_up(runtime.serve(loaded))
        runtime.lifecycle.capabilities = loaded.capabilities
        runtime.lifecycle.report(Step(Phase.READY))
        logger.info("ready", extra={"progress": runtime.lifecycle.snapshot()})
    except Stopped:
        return
    except RuntimeFailed as failure:
        runtime.die(failure)
    except MemoryError as error:
        runtime.die(OutOfMemory(f"the model does not fit the memory: {error}"))
    except Exception as error:
        logger.exception("the start failed")
        runtime.die(Crashed(f"the start failed: {type(error).__name__}: {error}"))


def start_goes_on() -> bool:
    """Whether the loader's thread still works, though nobody waits for it any more."""
    return any(thread.name == _THREAD for thread in threading.enumerate())


async def _warm_up(service: Service) -> None:
    try:
        await service.warm_up()
    except Exception as error:
        raise WarmupFailed(f"the first forward pass failed: {type(error).__name__}: {error}") from error


async def _on_thread(work: Callable[[], T]) -> T:
    """Runs ``work`` on a daemon thread, which a process that is told to end does not wait for."""
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

    threading.Thread(target=run, name=_THREAD, daemon=True).start()
    return await result
