"""The life of a model in this process, as others see it: the phase of its load, and why it failed."""

from __future__ import annotations

import threading
import time
from typing import Any

from modelyard_runtime.errors import RuntimeFailed
from modelyard_runtime.progress import Phase, Step, Stopped


class Lifecycle:
    """One load, from the source to the end. Written by the loader's thread and the event loop, read by probes.

    Each attribute is replaced whole, so that readers need no lock. A model that is loaded again gets a new one.
    """

    def __init__(self, phase: Phase = Phase.RESOLVE) -> None:
        self.capabilities: tuple[str, ...] = ()
        self.failure: RuntimeFailed | None = None
        self.warmup: dict[str, dict[str, Any]] = {}
        self._step = Step(phase)
        self._entered = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._stopping = threading.Event()

    @property
    def phase(self) -> Phase:
        """The phase that it is in."""
        return self._step.phase

    @property
    def step(self) -> Step:
        """How far it has come in its phase."""
        return self._step

    @property
    def ready(self) -> bool:
        """Whether it is warmed up and alive."""
        return self.phase is Phase.READY and self.failure is None

    @property
    def state(self) -> str:
        """One word: unloaded, failed, ready, or the phase of the load that goes on."""
        return "failed" if self.failure else str(self.phase)

    @property
    def seconds(self) -> dict[str, float]:
        """The phases that have ended, and how long they took."""
        return self._seconds

    def report(self, step: Step) -> None:
        """Notes how far the load has come; called from any thread. Raises Stopped when it is to end."""
        if self._stopping.is_set():
            raise Stopped
        self._enter(step)

    def stop(self) -> None:
        """Makes the next `report` raise Stopped."""
        self._stopping.set()

    def die(self, failure: RuntimeFailed) -> None:
        """Notes that the model cannot be served."""
        self.failure = failure

    def _enter(self, step: Step) -> None:
        if step.phase is not self._step.phase:
            now = time.monotonic()
            spent = self._seconds.get(self._step.phase, 0.0) + now - self._entered
            if self._step.phase is not Phase.READY:
                self._seconds = {**self._seconds, str(self._step.phase): round(spent, 3)}
            self._entered = now
        self._step = step


def snapshot(step: Step, seconds: dict[str, float], capabilities: tuple[str, ...]) -> dict[str, Any]:
    """Returns what ``/progress`` shows of a process or a model; ``seconds`` has the phases that have ended."""
    return {
        "phase": str(step.phase),
        "fraction": step.fraction,
        "bytesDone": step.bytes_done,
        "bytesTotal": step.bytes_total,
        "seconds": seconds,
        "capabilities": list(capabilities),
    }
