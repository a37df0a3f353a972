"""One model: gather → plan → converge, exactly as the operator does it, over processes instead of pods."""

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelyard.api.inference_model import Condition, InferenceModel, InferenceModelStatus
from modelyard.api.times import rfc3339
from modelyard.controller.plan import object_id, plan
from modelyard.controller.types import BuildSettings, Demand, Event, Key, Manifest, ObjectId, Observed, Plan, PodView
from modelyard.gateway.types import ModelRecord
from modelyard.gateway.watch import record_of
from modelyard.local.pod import Host, Pod
from modelyard.local.project import key_of
from modelyard.local.scaler import Scaler
from modelyard.local.workload import Workload


@dataclass(frozen=True, slots=True)
class Seen:
    """A model at a moment, for people. ``pods`` have their views beside them."""

    model: InferenceModel
    ready: Condition
    wanted: int
    pods: tuple[tuple[Pod, PodView], ...]
    demand: Demand

    @property
    def key(self) -> Key:
        """The model's key."""
        return key_of(self.model)


class LocalModel:
    """A model and its processes."""

    def __init__(self, model: InferenceModel, host: Host, settings: BuildSettings, on_change: Callable[[], None]):
        self.model = _stamped(model)
        self.key = key_of(model)
        self.workload = Workload(self.key, host, on_change)
        self._settings = settings
        self._scaler = Scaler(time.time())
        self._children: dict[ObjectId, Manifest] = {}

    def change(self, model: InferenceModel) -> None:
        """Takes over an edited manifest: the object stays the same, with a new generation when its spec has changed."""
        kept = self.model.metadata
        edited = model.spec != self.model.spec
        metadata = model.metadata.model_copy(
            update={
                "uid": kept.uid,
                "creation_timestamp": kept.creation_timestamp,
                "generation": kept.generation + edited,
                "resource_version": str(int(kept.resource_version) + 1),
            }
        )
        self.model = model.model_copy(update={"metadata": metadata, "status": self.model.status})

    def converge(self, demand: Demand, conflict: str | None) -> tuple[Seen, Sequence[Event]]:
        """Takes one step towards the plan and returns what is seen then, and the news."""
        observed = self._gather(conflict)
        if self._scaler.hear(self.model, self._current(), observed.pods, demand, observed.now):
            observed = self._gather(conflict)
        planned = plan(self.model, observed, self._settings)
        deployment = self._apply(planned)
        if planned.status is not None:
            self.model = self.model.model_copy(update={"status": planned.status})
        return self._seen(deployment, demand, planned.ready), planned.events

    def record(self) -> ModelRecord:
        """Returns what the gateway needs to know."""
        record = record_of(self.manifest())
        assert record is not None
        return record

    def manifest(self) -> dict[str, Any]:
        """Returns the resource as `kubectl get -o json` shows it."""
        return self.model.model_dump(mode="json", by_alias=True)

    def _gather(self, conflict: str | None) -> Observed:
        pods = tuple(self.workload.pods.values())
        reports = [(pod.view().ready_at or 0.0, report) for pod in pods if (report := pod.report())]
        return Observed(
            children=self._children,
            pods=tuple(pod.view() for pod in pods),
            desired_replicas=self._scaler.desired,
            decisions=tuple(decision.model_dump(by_alias=True) for decision in self._scaler.decisions),
            previous=self.model.status,
            name_conflict=conflict,
            report=max(reports, key=lambda one: one[0])[1] if reports else None,
            now=time.time(),
        )

    def _current(self) -> int:
        """Returns the replicas that were planned last; before the first plan, the fewest."""
        deployment = next((child for (kind, _), child in self._children.items() if kind == "Deployment"), None)
        fewest = self.model.spec.scaling.min_replicas
        return fewest if deployment is None else deployment["spec"].get("replicas", 1)

    def _apply(self, planned: Plan) -> Manifest:
        self._children = {object_id(manifest): manifest for manifest in planned.desired}
        deployment = next(manifest for manifest in planned.desired if manifest["kind"] == "Deployment")
        self.workload.apply(deployment)
        return deployment

    def _seen(self, deployment: Manifest, demand: Demand, ready: Condition) -> Seen:
        pods = tuple((pod, pod.view()) for pod in self.workload.pods.values())
        return Seen(self.model, ready, deployment["spec"].get("replicas", 1), pods, demand)


def _stamped(model: InferenceModel) -> InferenceModel:
    """Returns the model with what an API server adds to a new object."""
    now = rfc3339(time.time())
    stamp = {"uid": str(uuid.uuid4()), "generation": 1, "resource_version": "1", "creation_timestamp": now}
    return model.model_copy(update={"metadata": model.metadata.model_copy(update=stamp), "status": InferenceModelStatus()})
