"""Root causes: why a model is not ready, in one word for machines and one remedy for people.

A runtime that fails to start writes one line of JSON, a `Termination`, to its termination log; the operator reads it from the
pod's status, `modelyard up` from the process's file. Everything else the operator derives from pods, events and nodes.
"""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum


class Reason(StrEnum):
    """Values of a condition's ``reason``."""

    # Progress and success.
    READY = "Ready"
    IDLE = "ScaledToZero"
    PENDING = "Pending"
    STARTING = "Starting"
    LOADING = "Loading"
    # Root causes, most specific first when several hold.
    INVALID_SPEC = "InvalidSpec"
    NAME_CONFLICT = "NameConflict"
    QUOTA_EXCEEDED = "QuotaExceeded"
    INSUFFICIENT_GPU = "InsufficientGPU"
    UNSCHEDULABLE = "Unschedulable"
    IMAGE_PULL_FAILED = "ImagePullFailed"
    ENGINE_ARGUMENTS_INVALID = "EngineArgumentsInvalid"
    UNSUPPORTED_MODEL = "UnsupportedModel"
    UNAUTHORIZED = "Unauthorized"
    WEIGHTS_NOT_FOUND = "WeightsNotFound"
    DOWNLOAD_FAILED = "DownloadFailed"
    OUT_OF_MEMORY = "OutOfMemory"
    WARMUP_FAILED = "WarmupFailed"
    CRASH_LOOP = "CrashLoop"


#: What stands before a pod's last log line in a condition's message. It is for those who may read the cluster, not for API clients.
LAST_LOG_LINE = "; last log line: "

#: A request for such a model is refused at once: no pod of it can start until somebody acts. (Of two models with one name both run.)
_HARMLESS = {Reason.READY, Reason.IDLE, Reason.PENDING, Reason.STARTING, Reason.LOADING, Reason.NAME_CONFLICT}
BLOCKING: frozenset[Reason] = frozenset(Reason) - _HARMLESS

#: Exit codes of the runtime, one per cause, from the range that shells and sysexits leave free.
EXIT_CODES: dict[Reason, int] = {
    Reason.ENGINE_ARGUMENTS_INVALID: 2,
    Reason.WEIGHTS_NOT_FOUND: 80,
    Reason.UNSUPPORTED_MODEL: 81,
    Reason.UNAUTHORIZED: 82,
    Reason.DOWNLOAD_FAILED: 83,
    Reason.OUT_OF_MEMORY: 84,
    Reason.WARMUP_FAILED: 85,
    Reason.CRASH_LOOP: 86,
}


@dataclass(frozen=True, slots=True)
class Termination:
    """Why a runtime process ended: the last line of ``/dev/termination-log`` (4096 bytes at most).

    ``message`` says what happened, ``remedy`` what the user can do; each is one line.
    """

    reason: Reason
    message: str
    remedy: str

    def to_json(self) -> str:
        """Returns one line of JSON, within the kubelet's limit on termination messages."""
        return json.dumps(asdict(self) | {"message": self.message[:2000], "remedy": self.remedy[:1000]})

    @classmethod
    def parse(cls, text: str) -> "Termination | None":
        """Reads the last line of a termination log; returns None when it is not one of ours (a crash in a library, say)."""
        lines = text.strip().splitlines()
        try:
            raw = json.loads(lines[-1]) if lines else None
            return cls(Reason(raw["reason"]), str(raw["message"]), str(raw["remedy"])) if isinstance(raw, dict) else None
        except (ValueError, KeyError):
            return None
