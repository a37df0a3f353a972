"""The values at the controller's borders: what was observed, what is planned, and the settings both follow.

`plan(model, observed, settings)` is a pure function between them, and `modelyard up` uses it unchanged.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from modelyard import __version__
from modelyard.api.inference_model import Condition, InferenceModel, InferenceModelStatus
from modelyard.api.names import GATEWAY_URL, MONITORING_NAMESPACE, NAMESPACE
from modelyard.api.progress import Progress
from modelyard.api.reasons import Reason, Termination

Manifest = dict[str, Any]


class Key(NamedTuple):
    """A model's identity; printed as ``namespace/name``."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ObjectId(NamedTuple):
    """An object's identity within a namespace."""

    kind: str
    name: str


class PodPhase(StrEnum):
    """How far a pod of the model has come."""

    PENDING = "Pending"
    SCHEDULED = "Scheduled"
    RUNNING = "Running"
    READY = "Ready"
    FAILED = "Failed"
    TERMINATING = "Terminating"


@dataclass(frozen=True, slots=True)
class PodView:
    """What a pod says of itself, and of why it does not run: the operator's projection of a Pod, `modelyard up`'s of a process.

    ``problem`` is already classified: the root cause with message and remedy, when there is one.
    ``started_at``, ``ready_at`` and ``created_at`` are seconds since the epoch.
    """

    name: str
    phase: PodPhase
    problem: Termination | None = None
    restarts: int = 0
    node: str = ""
    created_at: float = 0.0
    scheduled_at: float | None = None
    started_at: float | None = None
    ready_at: float | None = None


@dataclass(frozen=True, slots=True)
class RuntimeReport:
    """What a ready runtime says of itself."""

    pod: str
    progress: Progress = field(default_factory=Progress)


@dataclass(frozen=True, slots=True)
class Demand:
    """Requests of one model, summed over all gateways."""

    in_flight: int = 0
    queued: int = 0
    oldest_queued_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Observed:
    """Everything `plan` may look at. ``children`` are the live objects that the operator owns, by kind and name.

    ``desired_replicas`` is the autoscaler's latest word. ``name_conflict`` names the older model that holds this one's name or alias.
    ``refusal`` is why the API server refused the last apply.
    """

    children: dict[ObjectId, Manifest] = field(default_factory=dict)
    pods: tuple[PodView, ...] = ()
    desired_replicas: int | None = None
    decisions: tuple[dict[str, Any], ...] = ()
    previous: InferenceModelStatus = InferenceModelStatus()  # noqa: RUF009  (frozen)
    name_conflict: str | None = None
    refusal: Termination | None = None
    report: RuntimeReport | None = None
    now: float = 0.0


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes event on the model, sent on a transition only."""

    type: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What shall be. ``desired`` are whole manifests to apply, ``delete`` what no longer belongs; ``status`` is None when unchanged.

    ``ready`` is the summarising condition, for those who only want to know whether and why not.
    """

    desired: tuple[Manifest, ...]
    delete: tuple[ObjectId, ...]
    status: InferenceModelStatus | None
    events: tuple[Event, ...]
    ready: Condition


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """What the builders need to know beside the model. `modelyard up` uses the defaults.

    ``gateway_namespace`` and ``monitoring_namespace`` are those that the NetworkPolicy lets in.
    """

    runtime_image: str = "modelyard-runtime"
    image_pull_policy: str = "IfNotPresent"
    version: str = __version__
    gateway_namespace: str = NAMESPACE
    monitoring_namespace: str = MONITORING_NAMESPACE
    gateway_url: str = GATEWAY_URL
    extra_env: tuple[tuple[str, str], ...] = ()


__all__ = [
    "BuildSettings",
    "Condition",
    "Demand",
    "Event",
    "InferenceModel",
    "Key",
    "Manifest",
    "ObjectId",
    "Observed",
    "Plan",
    "PodPhase",
    "PodView",
    "Reason",
    "RuntimeReport",
]
