"""The start of a model: find it, load it on a thread, warm it up, measure it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from modelyard_runtime.child import end_early
from modelyard_runtime.errors import Crashed, OutOfMemory, RuntimeFailed
from modelyard_runtime.hardware import is_out_of_memory
from modelyard_runtime.progress import Phase, Step, Stopped
from modelyard_runtime.serving import memory
from modelyard_runtime.serving.families import Context
from modelyard_runtime.serving.lifecycle import Lifecycle, snapshot
from modelyard_runtime.serving.loading import Found, check_options, find, load
from modelyard_runtime.serving.model import ServedModel
from modelyard_runtime.serving.threads import on_thread
from modelyard_runtime.serving.warmup import warm_up

logger = logging.getLogger(__name__)

#: Makes room for so many bytes of a model. Raises OutOfMemory.
MakeRoom = Callable[[ServedModel, int], Awaitable[None]]


async def load_into(model: ServedModel, turn: asyncio.Lock, make_room: MakeRoom, on_death: Callable[[Exception], None]) -> None:
    """Loads a model, or leaves it unloaded when it is told to stop. One at a time has the ``turn``. Raises RuntimeFailed."""
    life = model.lifecycle = Lifecycle()
    settings = model.spec.settings
    try:
        found = await on_thread(lambda: find(settings, life.report))
        check_options(found, settings, model.spec.own)
        async with turn:
            least = memory.least(found.folder, found.facts, settings)
            await make_room(model, max(model.memory, least))
            memory.check_free(model.name, least)
            await _load(model, found, least, on_death)
    except Stopped:
        model.take()
    except RuntimeFailed:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(f"the model does not fit the memory: {error}") from error
        logger.exception("the start failed")
        raise Crashed(f"the start failed: {type(error).__name__}: {error}") from error
    finally:
        await asyncio.to_thread(end_early)


async def _load(model: ServedModel, found: Found, least: int, on_death: Callable[[Exception], None]) -> None:
    """Loads what was found, which takes ``least`` bytes if not more: what is read lazily is measured late."""
    life, settings = model.lifecycle, model.spec.settings
    model.facts = found.facts
    before = await asyncio.to_thread(memory.held)
    loaded = await on_thread(lambda: load(found, settings, life.report))
    life.report(Step(Phase.WARMUP))
    service = found.module.serve(loaded, Context(settings, model.metrics, found.capabilities, on_death))
    try:
        ways = {name: service.ways(name) for name in found.capabilities}
        await warm_up(ways, settings, life.warmup)
        measured = await asyncio.to_thread(memory.held) - before
        life.capabilities = found.capabilities
        life.report(Step(Phase.READY))
    except BaseException:
        await service.stop()
        raise
    model.open(service, max(measured, least))
    told = snapshot(life.step, life.seconds, life.capabilities)
    logger.info("ready", extra={"model": model.name, "memory": model.memory, "progress": told})
