"""How far a start has come, told by whoever does the work and shown on ``/progress``."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """The phases of a model's life in a process, in order, and of the process itself."""

    UNLOADED = "unloaded"
    RESOLVE = "resolve"
    DOWNLOAD = "download"
    CONVERT = "convert"
    LOAD = "load"
    WARMUP = "warmup"
    READY = "ready"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True)
class Step:
    """A moment of a phase. ``fraction`` is a share of 1, None when unknown; bytes are 0 where a phase does not count them."""

    phase: Phase
    fraction: float | None = None
    bytes_done: int = 0
    bytes_total: int = 0

    @classmethod
    def of_bytes(cls, phase: Phase, done: int, total: int) -> "Step":
        """Returns a step whose fraction follows from its bytes."""
        return cls(phase, min(done / total, 1.0) if total else None, done, total)


#: Called from the thread that works. It may raise `Stopped`.
Report = Callable[[Step], None]


class Stopped(Exception):
    """The process was asked to end while it started; raised out of a `Report`."""
