from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelyard.api.inference_model import InferenceModel
from modelyard.api.progress import Progress
from modelyard.api.reasons import BLOCKING, Reason, Termination
from modelyard.api.status import EngineStatus, TriedEngine
from modelyard.controller.plan import object_id, plan
from modelyard.controller.types import BuildSettings, ObjectId, Observed, PodPhase, PodView, RuntimeReport

SETTINGS = BuildSettings()
WEIGHTS = Termination(Reason.WEIGHTS_NOT_FOUND, "pod p, container runtime: no such file", "Check spec.model.source.")
NOW = 1_800_000_000.0


def conditions(planned, previous=None):
    told = planned.status or previous
    return {condition.type: condition for condition in told.conditions}


def live(replicas):
    return {ObjectId("Deployment", "assistant"): {"kind": "Deployment", "metadata": {"name": "assistant"}, "spec": {"replicas": replicas}}}


@pytest.mark.parametrize(
    ("pods", "ready", "reason", "words"),
    [
        ([], "False", "Pending", "place to run"),
        ([PodPhase.PENDING], "False", "Pending", "place to run"),
        ([PodPhase.SCHEDULED], "False", "Starting", "image"),
        ([PodPhase.RUNNING], "False", "Loading", "loads the model"),
        ([PodPhase.READY], "True", "Ready", "1 of 2 replicas ready."),
        ([PodPhase.READY, PodPhase.READY], "True", "Ready", "2 of 2 replicas ready."),
    ],
)
def test_ready_summarises_how_far_the_replicas_came(make_model, make_pod, *, pods, ready, reason, words):
    observed = Observed(pods=tuple(make_pod(phase, f"p{n}") for n, phase in enumerate(pods)), now=NOW)
    planned = plan(make_model(scaling={"minReplicas": 2}), observed, SETTINGS)
    assert (planned.ready.status, planned.ready.reason) == (ready, reason)
    assert words in planned.ready.message
    assert planned.ready.observed_generation == 1


def test_a_problem_is_told_with_its_remedy_in_every_condition_it_touches(make_model, make_pod):
    planned = plan(make_model(), Observed(pods=(make_pod(PodPhase.SCHEDULED, problem=WEIGHTS),), now=NOW), SETTINGS)
    told = conditions(planned)
    assert {name: (c.status, c.reason) for name, c in told.items()} == {
        "Ready": ("False", "WeightsNotFound"),
        "ModelCached": ("False", "WeightsNotFound"),
        "Scheduled": ("True", "Scheduled"),
        "Loaded": ("False", "WeightsNotFound"),
        "Available": ("False", "WeightsNotFound"),
        "Progressing": ("False", "WeightsNotFound"),
    }
    assert told["Ready"].message == "pod p, container runtime: no such file. Check spec.model.source."
    assert [(event.type, event.reason) for event in planned.events] == [("Warning", "WeightsNotFound")]


def test_one_replica_that_answers_keeps_the_model_ready(make_model, make_pod):
    pods = (make_pod(PodPhase.READY, "a"), make_pod(PodPhase.SCHEDULED, "b", problem=WEIGHTS))
    planned = plan(make_model(scaling={"minReplicas": 2}), Observed(pods=pods, now=NOW), SETTINGS)
    assert (planned.ready.status, planned.ready.reason) == ("True", "Ready")
    assert "no such file" in planned.ready.message
    assert conditions(planned)["Progressing"].reason == "WeightsNotFound"


def test_at_zero_the_model_is_ready_and_idle(make_model):
    planned = plan(make_model(scaling={"minReplicas": 0}), Observed(children=live(0), now=NOW), SETTINGS)
    assert (planned.ready.status, planned.ready.reason) == ("True", "ScaledToZero")
    assert conditions(planned)["Loaded"].status == "Unknown"


def test_a_refused_write_is_the_cause(make_model):
    refusal = Termination(Reason.QUOTA_EXCEEDED, "exceeded quota", "Lower it.")
    planned = plan(make_model(), Observed(refusal=refusal, now=NOW), SETTINGS)
    assert (planned.ready.reason, planned.ready.message) == ("QuotaExceeded", "exceeded quota. Lower it.")


def test_a_taken_name_leaves_the_model_running(make_model, make_pod):
    planned = plan(make_model(), Observed(pods=(make_pod(),), name_conflict="taken", now=NOW), SETTINGS)
    assert (planned.ready.status, planned.ready.reason, planned.ready.message) == ("False", "NameConflict", "taken")
    assert conditions(planned)["Available"].status == "True"
    assert len(planned.desired) == 5


def test_nothing_new_is_nothing_to_tell(make_model, make_pod):
    first = plan(make_model(), Observed(pods=(make_pod(),), now=NOW), SETTINGS)
    again = plan(make_model(), Observed(pods=(make_pod(),), previous=first.status, now=NOW + 60), SETTINGS)
    assert again.status is None
    assert again.events == ()


def test_a_transition_time_changes_with_the_status_alone(make_model, make_pod):
    starting = plan(make_model(), Observed(now=NOW), SETTINGS)
    loading = plan(make_model(), Observed(pods=(make_pod(PodPhase.RUNNING),), previous=starting.status, now=NOW + 60), SETTINGS)
    ready = plan(make_model(), Observed(pods=(make_pod(),), previous=loading.status, now=NOW + 120), SETTINGS)
    times = [p.ready.last_transition_time for p in (starting, loading, ready)]
    assert times[0] == times[1] < times[2]
    assert [p.ready.reason for p in (starting, loading, ready)] == ["Pending", "Loading", "Ready"]


def test_a_problem_clears_by_itself(make_model, make_pod):
    broken = plan(make_model(), Observed(pods=(make_pod(PodPhase.SCHEDULED, problem=WEIGHTS),), now=NOW), SETTINGS)
    mended = plan(make_model(), Observed(pods=(make_pod(),), previous=broken.status, now=NOW), SETTINGS)
    assert (mended.ready.status, mended.ready.message) == ("True", "1 of 1 replica ready.")
    assert [(event.type, event.reason) for event in mended.events] == [("Normal", "Ready")]


@pytest.mark.parametrize(
    ("scaling", "running", "desired", "expected"),
    [
        ({}, None, None, 1),
        ({"minReplicas": 0, "maxReplicas": 3}, None, None, 0),
        ({"minReplicas": 0, "maxReplicas": 3}, 2, None, 2),  # a fresh leader keeps what runs
        ({"minReplicas": 0, "maxReplicas": 3}, 2, 1, 1),
        ({"minReplicas": 0, "maxReplicas": 3}, 9, None, 3),
        ({"minReplicas": 2, "maxReplicas": 3}, 1, 0, 2),
        ({"minReplicas": 4}, None, None, 4),
        ({"mode": "External"}, 7, None, None),
    ],
)
def test_the_planned_number_of_replicas(make_model, scaling, running, desired, expected):
    observed = Observed(children={} if running is None else live(running), desired_replicas=desired, now=NOW)
    planned = plan(make_model(scaling=scaling), observed, SETTINGS)
    (deployment,) = (manifest for manifest in planned.desired if manifest["kind"] == "Deployment")
    assert deployment["spec"].get("replicas") == expected


def test_what_no_longer_belongs_is_deleted(make_model):
    old = ObjectId("Service", "former-name")
    planned = plan(make_model(), Observed(children={old: {}}, now=NOW), SETTINGS)
    assert planned.delete == (old,)
    assert old not in {object_id(manifest) for manifest in planned.desired}


def test_decisions_are_told_and_announced_once(make_model):
    decision = {"time": "2026-01-01T00:00:00Z", "from": 0, "to": 1, "why": "1 queued"}
    observed = Observed(decisions=(decision,), now=NOW)
    planned = plan(make_model(), observed, SETTINGS)
    assert [d.why for d in planned.status.scaling.decisions] == ["1 queued"]
    assert ("Scaled", "from 0 to 1 replicas: 1 queued") in [(event.reason, event.message) for event in planned.events]
    again = plan(make_model(), replace(observed, previous=planned.status), SETTINGS)
    assert again.events == ()


def test_a_start_is_told_in_seconds_per_phase(make_model, make_pod):
    times = {"created_at": NOW, "scheduled_at": NOW + 2, "started_at": NOW + 5, "ready_at": NOW + 30}
    report = RuntimeReport("pod-1", Progress(seconds=(("download", 12.04), ("load", 3.0), ("warmup", 1.5)), capabilities=("chat",)))
    planned = plan(make_model(), Observed(pods=(make_pod(**times),), report=report, now=NOW), SETTINGS)
    assert planned.status.cold_start == {"schedule": 2.0, "pull": 3.0, "download": 12.0, "load": 3.0, "warmup": 1.5}
    assert planned.status.capabilities == ["chat"]
    silent = plan(make_model(), Observed(pods=(make_pod(**times),), report=RuntimeReport("pod-1"), now=NOW), SETTINGS)
    assert silent.status.cold_start == {"schedule": 2.0, "pull": 3.0, "load": 25.0}
    unknown = plan(make_model(), Observed(pods=(make_pod(**times),), previous=planned.status, now=NOW), SETTINGS)
    assert (unknown.status or planned.status).cold_start == planned.status.cold_start


def test_the_engine_is_told_and_kept(make_model, make_pod):
    engine = EngineStatus(name="generate", kernels={"Linear": 9}, tried=[TriedEngine(name="batching", why="so")])
    report = RuntimeReport("pod-1", Progress(engine=engine))
    told = plan(make_model(), Observed(pods=(make_pod(),), report=report, now=NOW), SETTINGS).status
    assert told.engine == engine
    idle = plan(make_model(), Observed(previous=told, now=NOW), SETTINGS).status
    assert idle.engine == told.engine


PODS = st.builds(
    PodView,
    name=st.sampled_from(["a", "b", "c"]),
    phase=st.sampled_from(PodPhase),
    problem=st.none() | st.builds(Termination, reason=st.sampled_from(sorted(BLOCKING)), message=st.just("m"), remedy=st.just("r")),
)


@settings(deadline=None)  # the machine may be busy
@given(pods=st.lists(PODS, max_size=4).map(tuple), desired=st.none() | st.integers(-3, 9), conflict=st.none() | st.just("x"))
def test_any_observation_is_planned_and_said_once(pods, desired, conflict):
    raw = {"metadata": {"name": "m", "uid": "u"}, "spec": {"model": {"source": "builtin://tiny-chat"}, "scaling": {"maxReplicas": 3}}}
    model = InferenceModel.model_validate(raw)
    observed = Observed(pods=pods, desired_replicas=desired, name_conflict=conflict, now=NOW)
    planned = plan(model, observed, SETTINGS)
    assert (planned.ready.status == "False") == (planned.ready.reason not in ("Ready", "ScaledToZero"))
    assert plan(model, replace(observed, previous=planned.status, now=NOW + 1), SETTINGS).status is None
