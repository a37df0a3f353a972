"""The kubelet's probes: when each is due, and what its results add up to. Pure; whoever asks the process is elsewhere."""

from typing import Any


class Probe:
    """One planned probe. Times are in seconds on one clock."""

    def __init__(self, planned: dict[str, Any]):
        self.path: str = planned["httpGet"]["path"]
        self.timeout = float(planned.get("timeoutSeconds", 1))
        self._period = float(planned.get("periodSeconds", 10))
        self._threshold = int(planned.get("failureThreshold", 3))
        self._next = 0.0
        self._failures = 0
        self.succeeded = False

    @property
    def failed(self) -> bool:
        """Whether it has failed as often in a row as it may."""
        return self._failures >= self._threshold

    def due(self, now: float) -> bool:
        """Returns whether it is time to ask."""
        return now >= self._next

    def wait(self, now: float) -> float:
        """Returns the seconds until it is due."""
        return max(0.0, self._next - now)

    def hasten(self) -> None:
        """Makes it due: there is news."""
        self._next = 0.0

    def note(self, now: float, ok: bool) -> None:
        """Takes a result. One success makes up for all failures; only a whole row of failures undoes a success."""
        self._next = now + self._period
        self._failures = 0 if ok else self._failures + 1
        if ok:
            self.succeeded = True
        elif self.failed:
            self.succeeded = False
