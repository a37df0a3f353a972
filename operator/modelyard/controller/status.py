"""Status: conditions, counts and timings, told from what was observed. Pure.

Ready summarises. While a replica answers, Ready stays True and a problem of another replica is told in its message and by
Progressing. A condition's transition time changes with its status alone.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from modelyard.api.inference_model import Condition, InferenceModel, InferenceModelStatus, ScalingStatus
from modelyard.api.names import selector_labels
from modelyard.api.reasons import BLOCKING, Reason, Termination
from modelyard.api.times import rfc3339
from modelyard.controller.causes import root_cause
from modelyard.controller.types import BuildSettings, Event, Manifest, Observed, PodPhase, PodView

Truth = Literal["True", "False", "Unknown"]


class Verdict(NamedTuple):
    """A condition before it knows its generation and time."""

    status: Truth
    reason: str
    message: str = ""


class Situation(NamedTuple):
    """What the conditions are told from. ``alive`` are the pods that run or shall; ``wanted`` is how many there shall be."""

    alive: tuple[PodView, ...]
    ready: tuple[PodView, ...]
    wanted: int
    problem: Termination | None
    conflict: str | None


def build(
    model: InferenceModel, observed: Observed, deployment: Manifest | None, wanted: int, settings: BuildSettings
) -> InferenceModelStatus:
    """Returns the whole status. ``wanted`` is the planned number of replicas, ``deployment`` the live one."""
    situation = _situation(observed, deployment, wanted)
    decisions = observed.decisions or tuple(decision.model_dump(by_alias=True) for decision in observed.previous.scaling.decisions)
    return InferenceModelStatus(
        observed_generation=model.metadata.generation,
        conditions=_conditions(situation, observed, model.metadata.generation),
        replicas=len(situation.alive),
        ready_replicas=len(situation.ready),
        selector=",".join(f"{name}={value}" for name, value in selector_labels(model.metadata.name).items()),
        url=settings.gateway_url,
        capabilities=_capabilities(model, observed),
        engine=(observed.report and observed.report.progress.engine) or observed.previous.engine,
        cold_start=_cold_start(situation.ready, observed) or observed.previous.cold_start,
        scaling=ScalingStatus.model_validate({"decisions": list(decisions)[:5]}),
    )


def refused(generation: int, previous: InferenceModelStatus, problem: Termination, now: float) -> InferenceModelStatus:
    """Returns the status of a model that cannot even be planned; what was known of its pods is kept."""
    verdict = Verdict("False", problem.reason, _told(problem))
    ready = _condition("Ready", verdict, previous.conditions, generation, now)
    others = [condition for condition in previous.conditions if condition.type != "Ready"]
    return previous.model_copy(update={"observed_generation": generation, "conditions": [ready, *others]})


def ready_condition(status: InferenceModelStatus) -> Condition | None:
    """Returns the summarising condition, or None in a status that nobody wrote yet."""
    return next((condition for condition in status.conditions if condition.type == "Ready"), None)


def transitions(before: InferenceModelStatus, after: InferenceModelStatus) -> tuple[Event, ...]:
    """Returns the events that the change is worth: becoming ready or idle, a new root cause, and a decision of the autoscaler."""
    events = []
    old, new = ready_condition(before), ready_condition(after)
    if new is not None and (old is None or (old.status, old.reason) != (new.status, new.reason)):
        if new.status == "True" and (old is not None or new.reason != Reason.IDLE):  # a model made to wait at zero is no news
            events.append(Event("Normal", new.reason, new.message))
        elif new.reason in BLOCKING or new.reason == Reason.NAME_CONFLICT:
            events.append(Event("Warning", new.reason, new.message))
    known = {decision.time for decision in before.scaling.decisions}
    for decision in after.scaling.decisions:
        if decision.time not in known:
            events.append(Event("Normal", "Scaled", f"from {decision.from_} to {decision.to} replicas: {decision.why}"))
    return tuple(events)


def _situation(observed: Observed, deployment: Manifest | None, wanted: int) -> Situation:
    alive = tuple(pod for pod in observed.pods if pod.phase not in (PodPhase.TERMINATING, PodPhase.FAILED))
    ready = tuple(pod for pod in alive if pod.phase is PodPhase.READY)
    problem = root_cause(observed.pods, deployment) if wanted else None
    return Situation(alive, ready, wanted, observed.refusal or problem, observed.name_conflict)


def _conditions(situation: Situation, observed: Observed, generation: int) -> list[Condition]:
    verdicts = {
        "Ready": _ready(situation),
        "ModelCached": _cached(situation),
        "Scheduled": _scheduled(situation),
        "Loaded": _loaded(situation),
        "Available": _available(situation),
        "Progressing": _progressing(situation),
    }
    previous = observed.previous.conditions
    return [_condition(name, verdict, previous, generation, observed.now) for name, verdict in verdicts.items()]


def _condition(name: str, verdict: Verdict, previous: Sequence[Condition], generation: int, now: float) -> Condition:
    before = next((condition for condition in previous if condition.type == name), None)
    since = before.last_transition_time if before is not None and before.status == verdict.status else rfc3339(now)
    return Condition(
        type=name,
        status=verdict.status,
        reason=verdict.reason,
        message=verdict.message,
        observed_generation=generation,
        last_transition_time=since,
    )


def _ready(situation: Situation) -> Verdict:
    if situation.conflict:
        return Verdict("False", Reason.NAME_CONFLICT, situation.conflict)
    if situation.ready and situation.wanted:
        return Verdict("True", Reason.READY, _counted(situation) + (f" {_told(situation.problem)}" if situation.problem else ""))
    return _available(situation)


def _available(situation: Situation) -> Verdict:
    """Returns whether requests are answered. At zero they are: the gateway holds them while a replica starts."""
    if situation.ready and situation.wanted:
        return Verdict("True", Reason.READY, _counted(situation))
    if situation.problem:
        return Verdict("False", situation.problem.reason, _told(situation.problem))
    if not situation.wanted:
        return Verdict("True", Reason.IDLE, "No replica runs; the next request starts one.")
    return _starting(situation)


def _starting(situation: Situation) -> Verdict:
    phases = {pod.phase for pod in situation.alive}
    if PodPhase.RUNNING in phases:
        return Verdict("False", Reason.LOADING, "A replica loads the model.")
    if PodPhase.SCHEDULED in phases:
        return Verdict("False", Reason.STARTING, "A replica starts; in a cluster its image may have to be pulled first.")
    return Verdict("False", Reason.PENDING, "A replica waits for a place to run.")


def _scheduled(situation: Situation) -> Verdict:
    if not situation.wanted:
        return Verdict("Unknown", Reason.IDLE)
    placed = [pod for pod in situation.alive if pod.phase is not PodPhase.PENDING]
    if situation.alive and len(placed) == len(situation.alive):
        return Verdict("True", "Scheduled")
    problem = situation.problem
    return Verdict("False", problem.reason, _told(problem)) if problem else Verdict("False", Reason.PENDING)


def _cached(situation: Situation) -> Verdict:
    return _started(situation, "Cached", {Reason.WEIGHTS_NOT_FOUND, Reason.DOWNLOAD_FAILED, Reason.UNAUTHORIZED})


def _loaded(situation: Situation) -> Verdict:
    return _started(situation, "Loaded", BLOCKING)


def _started(situation: Situation, success: str, blame: frozenset[Reason] | set[Reason]) -> Verdict:
    """Returns what a start of a replica shows: that one is ready proves every step before."""
    if situation.ready:
        return Verdict("True", success)
    if not situation.wanted:
        return Verdict("Unknown", Reason.IDLE)
    if situation.problem and situation.problem.reason in blame:
        return Verdict("False", situation.problem.reason, _told(situation.problem))
    return Verdict("Unknown", _starting(situation).reason)


def _progressing(situation: Situation) -> Verdict:
    if situation.problem:
        return Verdict("False", situation.problem.reason, _told(situation.problem))
    done = len(situation.ready) == len(situation.alive) == situation.wanted
    return Verdict("True", "Complete" if done else "Changing", _counted(situation))


def _counted(situation: Situation) -> str:
    total = max(situation.wanted, len(situation.alive))
    return f"{len(situation.ready)} of {total} replica{'s' if total != 1 else ''} ready."


def _told(problem: Termination) -> str:
    remedy = problem.remedy[:1].upper() + problem.remedy[1:].rstrip(".")
    return f"{problem.message.rstrip('.')}. {remedy}."


def _capabilities(model: InferenceModel, observed: Observed) -> list[str]:
    if model.spec.model.capabilities:
        return [capability.value for capability in model.spec.model.capabilities]
    return list(observed.report.progress.capabilities) if observed.report else observed.previous.capabilities


def _cold_start(ready: tuple[PodView, ...], observed: Observed) -> dict[str, float]:
    """Returns the seconds per phase of the latest start, once its runtime was asked; one that reports no phases loads in one."""
    pod = max(ready, key=lambda pod: pod.ready_at or 0.0, default=None)
    if pod is None or observed.report is None or observed.report.pod != pod.name:
        return {}
    if pod.scheduled_at is None or pod.started_at is None or pod.ready_at is None:
        return {}
    phases = {"schedule": pod.scheduled_at - pod.created_at, "pull": pod.started_at - pod.scheduled_at}
    phases |= dict(observed.report.progress.seconds) or {"load": pod.ready_at - pod.started_at}
    return {name: round(max(0.0, seconds), 1) for name, seconds in phases.items()}
