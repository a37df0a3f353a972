"""Root causes: from what Kubernetes says of pods to one reason, one message and one remedy. Pure.

A pod's own word is the runtime's termination message (`Termination`); the scheduler's, the kubelet's and the quota's words are read
from the conditions and container states that they leave behind. The message names pod, container and last log line.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from modelyard.api.reasons import EXIT_CODES, LAST_LOG_LINE, Reason, Termination
from modelyard.api.times import seconds_of
from modelyard.controller.types import Manifest, PodPhase, PodView

_PULL_FAILURES = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError"}
_SPEC_FAILURES = {"CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError"}
_RANK = {reason: rank for rank, reason in enumerate(Reason)}
_EXIT_REASONS = {code: reason for reason, code in EXIT_CODES.items()}
#: What to do where nothing more is known than the reason.
REMEDIES = {
    Reason.WEIGHTS_NOT_FOUND: "Check spec.model.source.",
    Reason.UNSUPPORTED_MODEL: "Choose a model of a supported architecture.",
    Reason.UNAUTHORIZED: "Put a token that may read the model into the Secret of spec.model.credentialsSecret.",
    Reason.DOWNLOAD_FAILED: "Check the network between the pods and the source.",
    Reason.OUT_OF_MEMORY: "Raise spec.resources.memory, or lower spec.engine.maxModelLength or maxConcurrentSequences.",
    Reason.ENGINE_ARGUMENTS_INVALID: "Correct spec.engine.args.",
    Reason.WARMUP_FAILED: "See the pod's log for the failing forward pass.",
    Reason.CRASH_LOOP: "See the pod's log (kubectl logs --previous).",
}


def view(pod: Manifest) -> PodView:
    """Projects a Pod to what the controller needs of it."""
    metadata, status = pod["metadata"], pod.get("status", {})
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    state = _runtime_state(status)
    scheduled, ready = conditions.get("PodScheduled", {}), conditions.get("Ready", {})
    return PodView(
        name=metadata["name"],
        phase=_phase(metadata, status, conditions, state),
        problem=None if metadata.get("deletionTimestamp") else _problem(pod, conditions, state),
        restarts=state.get("restartCount", 0),
        node=pod.get("spec", {}).get("nodeName", ""),
        created_at=seconds_of(metadata.get("creationTimestamp")) or 0.0,
        scheduled_at=seconds_of(scheduled.get("lastTransitionTime")) if scheduled.get("status") == "True" else None,
        started_at=seconds_of(state.get("state", {}).get("running", {}).get("startedAt")),
        ready_at=seconds_of(ready.get("lastTransitionTime")) if ready.get("status") == "True" else None,
    )


def root_cause(pods: Iterable[PodView], deployment: Manifest | None) -> Termination | None:
    """Returns the most specific problem of a model's pods, or why pods cannot even be made.

    While a pod is stopping its successor may find no place; that ends by itself and is no cause. Pods that have ended for good
    are replaced, so theirs counts only when no other is left.
    """
    pods = tuple(pods)
    alive = [pod for pod in pods if pod.phase not in (PodPhase.TERMINATING, PodPhase.FAILED)]
    stopping = any(pod.phase is PodPhase.TERMINATING for pod in pods)
    found = [pod.problem for pod in alive or pods if pod.problem and not (stopping and pod.phase is PodPhase.PENDING)]
    if failure := replica_failure(deployment):
        found.append(failure)
    return min(found, key=lambda problem: (_RANK[problem.reason], problem.message), default=None)


def replica_failure(deployment: Manifest | None) -> Termination | None:
    """Explains the Deployment's ReplicaFailure condition: quotas and admission refuse pods before they exist."""
    conditions = (deployment or {}).get("status", {}).get("conditions", ())
    told = next((c["message"] for c in conditions if c["type"] == "ReplicaFailure" and c["status"] == "True"), None)
    return None if told is None else refusal(told)


def refusal(told: str) -> Termination:
    """Explains why the API server refuses an object of the model, from its message."""
    message = re.sub(r'pods "[^"]*" is forbidden', "its pods are forbidden", told)
    if "exceeded quota" in told or "must specify" in told:
        remedy = "Lower spec.resources or spec.scaling.maxReplicas, or have the namespace's ResourceQuota raised."
        return Termination(Reason.QUOTA_EXCEEDED, message, remedy)
    if "violates PodSecurity" in told:
        return Termination(Reason.INVALID_SPEC, message, "Have the namespace's Pod Security level changed, or remove the override.")
    if "PriorityClass" in told:
        return Termination(Reason.INVALID_SPEC, message, "Correct spec.pod.priorityClassName or create that PriorityClass.")
    if "runtimeclass" in told.lower():
        return Termination(Reason.INVALID_SPEC, message, "Correct spec.pod.runtimeClassName or create that RuntimeClass.")
    return Termination(Reason.INVALID_SPEC, message, "Correct the field that the message names.")


def mount_failure(pod: PodView, events: Sequence[Manifest]) -> Termination | None:
    """Explains why a scheduled pod does not start, from its events: the kubelet tells missing volumes nowhere else."""
    told = [event["message"] for event in events if event.get("type") == "Warning" and event.get("reason", "").startswith("Failed")]
    if not told:
        return None
    message = f"pod {pod.name}: {_line(told[-1])}"
    if missing := re.search(r'secret "([^"]+)" not found', told[-1]):
        return Termination(
            Reason.UNAUTHORIZED, message, f"Create Secret {missing[1]} with the key `token`, or correct spec.model.credentialsSecret."
        )
    if missing := re.search(r"references non-existent secret key: (\S+)", told[-1]):
        return Termination(Reason.UNAUTHORIZED, message, f"Add the key `{missing[1]}` to the Secret of spec.model.credentialsSecret.")
    return Termination(Reason.UNSCHEDULABLE, message, "Repair the volume; kubectl describe pod shows its events.")


def _phase(metadata: Manifest, status: Manifest, conditions: dict[str, Manifest], state: Manifest) -> PodPhase:
    if metadata.get("deletionTimestamp"):
        return PodPhase.TERMINATING
    if status.get("phase") in ("Failed", "Succeeded"):
        return PodPhase.FAILED
    if conditions.get("Ready", {}).get("status") == "True":
        return PodPhase.READY
    if "running" in state.get("state", {}):
        return PodPhase.RUNNING
    return PodPhase.SCHEDULED if conditions.get("PodScheduled", {}).get("status") == "True" else PodPhase.PENDING


def _runtime_state(status: Manifest) -> Manifest:
    """Returns the runtime's container status; our pods have no other container unless somebody injects sidecars."""
    states: list[Manifest] = status.get("containerStatuses", [])
    return next((state for state in states if state["name"] == "runtime"), states[0] if states else {})


def _problem(pod: Manifest, conditions: dict[str, Manifest], state: Manifest) -> Termination | None:
    if conditions.get("Ready", {}).get("status") == "True":
        return None
    name = pod["metadata"]["name"]
    return (
        _unschedulable(pod, conditions.get("PodScheduled", {}))
        or _ended(name, pod.get("status", {}))
        or _waiting(name, state)
        or _terminated(name, state)
    )


def _unschedulable(pod: Manifest, condition: dict[str, Any]) -> Termination | None:
    if condition.get("status") != "False" or condition.get("reason") not in ("Unschedulable", "SchedulerError"):
        return None
    told = re.split(r"\.? (?:no new claims|preemption:|not found$)", condition.get("message", ""))[0].rstrip(".")
    message = f"pod {pod['metadata']['name']}: {told}"
    if missing := re.search(r'persistentvolumeclaim "([^"]+)" not found', told):
        return Termination(Reason.WEIGHTS_NOT_FOUND, message, f"Create PersistentVolumeClaim {missing[1]}, or correct spec.model.source.")
    for resource, count in _devices(pod).items():
        if f"Insufficient {resource}" in told:
            remedy = f"Free or add nodes with {count} {resource} each, or lower spec.resources.gpu.count or spec.scaling.maxReplicas."
            return Termination(Reason.INSUFFICIENT_GPU, message, remedy)
        if "node affinity" in told and pod["spec"].get("affinity"):
            return Termination(Reason.INSUFFICIENT_GPU, message, "Add nodes with that product, or correct spec.resources.gpu.product.")
    return Termination(Reason.UNSCHEDULABLE, message, "Free or add nodes that fit spec.resources and spec.pod, or lower what they ask for.")


def _devices(pod: Manifest) -> dict[str, str]:
    """Returns the extended resources that the pod asks for, with their numbers."""
    containers = pod.get("spec", {}).get("containers", ())
    limits = [container.get("resources", {}).get("limits", {}) for container in containers]
    return {name: count for limit in limits for name, count in limit.items() if "/" in name}


def _ended(name: str, status: Manifest) -> Termination | None:
    """Explains a pod that the kubelet ended or refused: evicted, or its devices gone since it was placed."""
    reason = status.get("reason", "")
    if status.get("phase") != "Failed" or not reason:
        return None
    message = f"pod {name}: {reason}: {_line(status.get('message', ''))}"
    if reason.startswith("OutOf") or reason == "UnexpectedAdmissionError":
        return Termination(Reason.INSUFFICIENT_GPU if "/" in reason else Reason.UNSCHEDULABLE, message, "Check the node's device plugin.")
    if reason == "Evicted" and "memory" in message:
        return Termination(Reason.OUT_OF_MEMORY, message, REMEDIES[Reason.OUT_OF_MEMORY])
    return Termination(Reason.CRASH_LOOP, message, "Check the node that the pod ran on.")


def _waiting(name: str, state: Manifest) -> Termination | None:
    waiting = state.get("state", {}).get("waiting", {})
    reason, told = waiting.get("reason", ""), _line(waiting.get("message", ""))
    message = f"pod {name}, container {state.get('name')}: {reason}: {told}"
    if reason in _PULL_FAILURES:
        remedy = f"Check that image {state.get('image')} exists and that spec.pod.imagePullSecrets may pull it."
        return Termination(Reason.IMAGE_PULL_FAILED, message, remedy)
    if reason in _SPEC_FAILURES:
        return Termination(Reason.INVALID_SPEC, message, "Correct the field of spec.engine or spec.pod that the message names.")
    return None


def _terminated(name: str, state: Manifest) -> Termination | None:
    """Explains the container's last end. A container that runs again is still a suspect until it is ready.

    One end without a cause is an accident that the restart mends: only a second one is a loop. Until then requests are held.
    """
    end = state.get("state", {}).get("terminated") or state.get("lastState", {}).get("terminated")
    if not end:
        return None
    cause = _cause(f"pod {name}, container {state['name']}", end)
    runs = "running" in state.get("state", {})
    return None if cause.reason == Reason.CRASH_LOOP and state.get("restartCount", 0) < (2 if runs else 1) else cause


def _cause(where: str, end: Manifest) -> Termination:
    if end.get("reason") == "OOMKilled":
        message = f"{where}: killed for exceeding its memory limit (OOMKilled)"
        return Termination(Reason.OUT_OF_MEMORY, message, REMEDIES[Reason.OUT_OF_MEMORY])
    told, code = end.get("message", ""), end.get("exitCode", 0)
    if own := Termination.parse(told):
        return Termination(own.reason, f"{where}: {own.message}", own.remedy)
    reason = _EXIT_REASONS.get(code, Reason.CRASH_LOOP)
    message = f"{where}: ended with exit code {code}" + (f"{LAST_LOG_LINE}{_line(told, last=True)}" if told.strip() else "")
    return Termination(reason, message, REMEDIES[reason])


def _line(text: str, *, last: bool = False) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return (lines[-1 if last else 0] if lines else "")[:500]
