"""A process's life as others see it: the phase of its start, whether it is ready, drains or is dead."""

from __future__ import annotations

import threading
import time
from typing import Any

from modelyard_runtime.errors import RuntimeFailed
from modelyard_runtime.progress import Phase, Step, Stopped


class Lifecycle:
    """Written by the loader's thread and the event loop, read by probes. Each attribute is replaced whole, so that readers need no lock."""

    def __init__(self) -> None:
        self.capabilities: tuple[str, ...] = ()
        self.failure: RuntimeFailed | None = None
        self._step = Step(Phase.RESOLVE)
        self._entered = time.monotonic()
        self._seconds: dict[str, float] = {}
        self._stopping = threading.Event()

    @property
    def phase(self) -> Phase:
        """The phase that it is in."""
        return self._step.phase

    @property
    def ready(self) -> bool:
        """Whether new requests are welcome: warmed up, not draining, alive."""
        return self.phase is Phase.READY and self.failure is None

    @property
    def loaded(self) -> bool:
        """Whether requests can be served, be it for the last moments of a drain."""
        return self.phase in {Phase.READY, Phase.DRAINING} and self.failure is None

    def report(self, step: Step) -> None:
        """Notes how far the start has come; called from any thread. Raises Stopped when the process is to end."""
        if self._stopping.is_set():
            raise Stopped
        self._enter(step)

    def stop(self) -> None:
        """Makes the next `report` raise Stopped, and shows the process as draining."""
        self._stopping.set()
        self._enter(Step(Phase.DRAINING))

    def die(self, failure: RuntimeFailed) -> None:
        """Notes that the process cannot serve any more."""
        self.failure = failure

    def snapshot(self) -> dict[str, Any]:
        """Returns what ``/progress`` shows; ``seconds`` has the phases that have ended."""
        step = self._step
        return {
            "phase": str(step.phase),
            "fraction": step.fraction,
            "bytesDone": step.bytes_done,
            "bytesTotal": step.bytes_total,
            "seconds": self._seconds,
            "capabilities": list(self.capabilities),
        }

    def _enter(self, step: Step) -> None:
        if step.phase is not self._step.phase:
            now = time.monotonic()
            spent = self._seconds.get(self._step.phase, 0.0) + now - self._entered
            if self._step.phase is not Phase.READY:
                self._seconds = {**self._seconds, str(self._step.phase): round(spent, 3)}
            self._entered = now
        self._step = step
