"""Warm-up of a model: the ways that requests will take, run before requests come, within bounds, and noted by capability.

Each capability names its ways, from small to large. They are run in rounds, the first of each capability before the second of any, so
that when the memory budget ends it, what is left out are the larger shapes of all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from modelyard.api.errors import InvalidRequest, TooManyRequests, Unavailable

from modelyard_runtime.errors import WarmupFailed
from modelyard_runtime.serving import memory
from modelyard_runtime.setting_types import shown
from modelyard_runtime.settings import ServeSettings

SKIPPED = "skipped"
RUNNING = "running"
DONE = "done"
#: What a way raises that this model, or this machine now, cannot take: noted, while everything else fails the start.
_REFUSALS = (InvalidRequest, TooManyRequests, Unavailable)

Notes = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Way:
    """One way of requests through a model. ``name`` tells it from the model's others: capabilities that share it have it run once."""

    name: str
    run: Callable[[], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class _Outcome:
    """How often a way was run and the seconds that it took in all, or ``why`` it was left out."""

    runs: int = 0
    seconds: float = 0.0
    why: str = ""


class _Meter:
    """What warm-up has added to the memory held, against its budget, both in bytes."""

    def __init__(self, before: int, budget: int | None):
        self._before = before
        self._budget = budget

    @classmethod
    async def start(cls, budget: str | None) -> _Meter:
        """Measures what is held now, where there is a budget (``512Mi``, ``10%``)."""
        if budget is None:
            return cls(0, None)
        return cls(await asyncio.to_thread(memory.held), memory.size_of(budget))

    async def exceeded(self) -> str:
        """Returns why nothing more may be warmed up; empty while the budget holds."""
        if self._budget is None:
            return ""
        added = await asyncio.to_thread(memory.held) - self._before
        return f"warm-up has taken {shown(added)} of its {shown(self._budget)}" if added > self._budget else ""


def chosen(capabilities: Sequence[str], settings: ServeSettings) -> tuple[str, ...]:
    """Returns the capabilities to warm up: those allowed, without those to skip."""
    allowed = settings.warmup or capabilities
    return tuple(name for name in capabilities if name in allowed and name not in settings.warmup_skip)


async def warm_up(ways: Mapping[str, Sequence[Way]], settings: ServeSettings, notes: Notes) -> None:
    """Runs the ``ways`` of each capability that is chosen, and notes by capability what was run, for how long, and what was not and why.

    Raises WarmupFailed when a way fails, or when a capability has none that can be run.
    """
    warm = chosen(tuple(ways), settings)
    notes |= {name: {"state": SKIPPED, "why": "left out by the settings"} for name in ways if name not in warm}
    notes |= {name: {"state": RUNNING, "seconds": 0.0, "paths": {}, "skipped": {}} for name in warm}
    meter = await _Meter.start(settings.warmup_memory)
    outcomes: dict[str, _Outcome] = {}
    full = ""
    for capability, way in _rounds({name: ways[name] for name in warm}):
        if way.name not in outcomes:
            outcomes[way.name] = _Outcome(why=full) if full else await _run(capability, way, settings.warmup_steps)
            full = full or await meter.exceeded()
        _note(notes[capability], way.name, outcomes[way.name])
    for name in warm:
        _conclude(name, notes[name], full)


def _rounds(ways: Mapping[str, Sequence[Way]]) -> Iterator[tuple[str, Way]]:
    """Yields (capability, path): the first way of each capability, then the second of each, and so on."""
    for turn in zip_longest(*ways.values()):
        yield from ((name, way) for name, way in zip(ways, turn, strict=True) if way is not None)


async def _run(capability: str, way: Way, times: int) -> _Outcome:
    began = time.monotonic()
    try:
        for _ in range(times):
            await way.run()
    except _REFUSALS as refusal:
        return _Outcome(why=refusal.message)
    except Exception as error:
        raise WarmupFailed(f"{capability}, {way.name}: {type(error).__name__}: {error}") from error
    return _Outcome(times, round(time.monotonic() - began, 3))


def _note(note: dict[str, Any], name: str, outcome: _Outcome) -> None:
    if outcome.why:
        note["skipped"] = {**note["skipped"], name: outcome.why}
    else:
        note["paths"] = {**note["paths"], name: {"runs": outcome.runs, "seconds": outcome.seconds}}
        note["seconds"] = round(note["seconds"] + outcome.seconds, 3)


def _conclude(capability: str, note: dict[str, Any], full: str) -> None:
    """Closes a capability's note. Raises WarmupFailed where nothing of it works, though there was memory to try."""
    if not note["paths"] and not full and note["skipped"]:
        raise WarmupFailed("; ".join(f"{capability}, {name}: {why}" for name, why in note["skipped"].items()))
    note["state"] = DONE if note["paths"] else SKIPPED
    if full and note["skipped"]:
        note["why"] = full
    if not note["skipped"]:
        del note["skipped"]
