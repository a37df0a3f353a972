"""Warm-up of a model: each path once or more before requests come, within bounds, and noted by capability."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from modelyard_runtime.serving import memory
from modelyard_runtime.serving.families import Service
from modelyard_runtime.settings import ServeSettings

SKIPPED = "skipped"
DONE = "done"


def chosen(capabilities: tuple[str, ...], settings: ServeSettings) -> tuple[str, ...]:
    """Returns the capabilities to warm up: those allowed, without those to skip."""
    allowed = settings.warmup or capabilities
    return tuple(name for name in capabilities if name in allowed and name not in settings.skip_warmup)


async def warm_up(service: Service, capabilities: tuple[str, ...], settings: ServeSettings, notes: dict[str, dict[str, Any]]) -> None:
    """Runs the paths of the chosen capabilities and notes how that went, by capability. Raises whatever goes wrong.

    A model's capabilities share its forward pass, so that one run warms up all of them.
    """
    warm = chosen(capabilities, settings)
    notes |= {name: {"state": SKIPPED, "why": "left out by the settings"} for name in capabilities if name not in warm}
    if not warm:
        return
    notes |= {name: {"state": "running"} for name in warm}
    started, steps = time.monotonic(), 0
    before = await asyncio.to_thread(memory.held)
    while steps < settings.warmup_steps:
        await service.warm_up()
        steps += 1
        if await _exhausted(before, settings.warmup_memory_budget):
            break
    note = {"state": DONE, "steps": steps, "seconds": round(time.monotonic() - started, 3)}
    if steps < settings.warmup_steps:
        note["why"] = "the memory budget of warm-up was reached"
    notes |= dict.fromkeys(warm, note)


async def _exhausted(before: int, budget: str | None) -> bool:
    return budget is not None and await asyncio.to_thread(memory.held) - before > memory.size_of(budget)
