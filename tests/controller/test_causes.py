import json

import pytest
from modelyard.api.reasons import EXIT_CODES, Reason, Termination
from modelyard.controller import causes
from modelyard.controller.types import PodPhase

SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T00:00:02Z"}
NOT_READY = {"type": "Ready", "status": "False", "lastTransitionTime": "2026-01-01T00:00:02Z"}
READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:30Z"}
GPUS = {"containers": [{"name": "runtime", "resources": {"limits": {"nvidia.com/gpu": "2", "memory": "1Gi"}}}]}


def pod(*, conditions=(SCHEDULED, NOT_READY), state=None, last=None, spec=None, restarts=0, metadata=None, **status):
    container = {
        "name": "runtime",
        "image": "modelyard-runtime:dev",
        "restartCount": restarts,
        "state": state or {},
        "lastState": last or {},
    }
    return {
        "metadata": {"name": "chat-1", "creationTimestamp": "2026-01-01T00:00:00Z"} | (metadata or {}),
        "spec": spec or GPUS,
        "status": {"conditions": list(conditions), "containerStatuses": [container] if state else []} | status,
    }


def unschedulable(message, spec=None):
    return pod(
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}], spec=spec, phase="Pending"
    )


def waiting(reason, message="", **more):
    return pod(state={"waiting": {"reason": reason, "message": message}}, **more)


def ended(code, message="", reason="Error"):
    return waiting(
        "CrashLoopBackOff", "back-off 10s", last={"terminated": {"exitCode": code, "reason": reason, "message": message}}, restarts=3
    )


WEIGHTS = Termination(Reason.WEIGHTS_NOT_FOUND, "hf://a/b has no file config.json", "Check spec.model.source.")
CASES = {
    "no device free": (
        unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu. preemption: 0/3 nodes are available."),
        Reason.INSUFFICIENT_GPU,
        "pod chat-1: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu",
        "2 nvidia.com/gpu each",
    ),
    "no such product": (
        unschedulable(
            "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.", GPUS | {"affinity": {"nodeAffinity": {}}}
        ),
        Reason.INSUFFICIENT_GPU,
        "node affinity",
        "spec.resources.gpu.product",
    ),
    "no memory free": (
        unschedulable("0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: 0/1"),
        Reason.UNSCHEDULABLE,
        "1 Insufficient memory",
        "spec.resources",
    ),
    "no claim": (
        unschedulable('0/5 nodes are available: persistentvolumeclaim "weights" not found. not found'),
        Reason.WEIGHTS_NOT_FOUND,
        "weights",
        "Create PersistentVolumeClaim weights",
    ),
    "no image": (
        waiting("ImagePullBackOff", 'Back-off pulling image "x"'),
        Reason.IMAGE_PULL_FAILED,
        "container runtime",
        "modelyard-runtime:dev",
    ),
    "never pulled": (waiting("ErrImageNeverPull"), Reason.IMAGE_PULL_FAILED, "ErrImageNeverPull", "imagePullSecrets"),
    "root image": (waiting("CreateContainerConfigError", "container has runAsNonRoot"), Reason.INVALID_SPEC, "runAsNonRoot", "spec.engine"),
    "told by the runtime": (
        ended(80, WEIGHTS.to_json()),
        Reason.WEIGHTS_NOT_FOUND,
        "container runtime: hf://a/b has no file",
        "spec.model.source",
    ),
    "exit code alone": (
        ended(81, "some library said\nsomething last\n"),
        Reason.UNSUPPORTED_MODEL,
        "last log line: something last",
        "architecture",
    ),
    "bad arguments": (ended(2, "unknown flag --x"), Reason.ENGINE_ARGUMENTS_INVALID, "unknown flag --x", "spec.engine.args"),
    "killed by the kernel": (ended(137, "", "OOMKilled"), Reason.OUT_OF_MEMORY, "memory limit", "spec.resources.memory"),
    "crash": (ended(139, "Fatal Python error: Segmentation fault"), Reason.CRASH_LOOP, "exit code 139", "kubectl logs --previous"),
    "second crash": (
        pod(state={"terminated": {"exitCode": 1, "message": "boom"}}, restarts=1),
        Reason.CRASH_LOOP,
        "last log line: boom",
        "log",
    ),
    "third start": (pod(state={"running": {}}, last={"terminated": {"exitCode": 1}}, restarts=2), Reason.CRASH_LOOP, "exit code 1", "log"),
    "suspect again": (
        pod(state={"running": {}}, last={"terminated": {"exitCode": 84, "message": ""}}, restarts=1),
        Reason.OUT_OF_MEMORY,
        "exit code 84",
        "spec.resources.memory",
    ),
    "evicted": (
        pod(phase="Failed", reason="Evicted", message="The node was low on resource: memory."),
        Reason.OUT_OF_MEMORY,
        "low on resource",
        "spec.resources.memory",
    ),
    "devices gone": (pod(phase="Failed", reason="OutOfnvidia.com/gpu", message="no"), Reason.INSUFFICIENT_GPU, "OutOf", "device plugin"),
}


@pytest.mark.parametrize("name", CASES)
def test_each_cause_is_named_with_its_place_and_remedy(name):
    raw, reason, words, remedy = CASES[name]
    problem = causes.view(raw).problem
    assert problem is not None
    assert problem.reason == reason
    assert "pod chat-1" in problem.message
    assert words in problem.message
    assert remedy in problem.remedy
    assert "\n" not in problem.message + problem.remedy


@pytest.mark.parametrize(
    "raw",
    [
        pod(conditions=[SCHEDULED, READY], state={"running": {}}, last={"terminated": {"exitCode": 1}}, restarts=4),  # recovered
        pod(state={"terminated": {"exitCode": 1, "message": "boom"}}),  # an accident, which the restart mends
        pod(state={"running": {}}, last={"terminated": {"exitCode": 137}}, restarts=1),
        pod(state={"running": {}}),
        pod(conditions=[]),
        waiting("ContainerCreating"),
        waiting("PodInitializing"),
        pod(metadata={"deletionTimestamp": "2026-01-01T00:01:00Z"}, state={"terminated": {"exitCode": 137}}),
    ],
)
def test_what_is_well_or_on_its_way_has_no_problem(raw):
    assert causes.view(raw).problem is None


@pytest.mark.parametrize(
    ("raw", "phase"),
    [
        (pod(conditions=[]), PodPhase.PENDING),
        (waiting("ContainerCreating"), PodPhase.SCHEDULED),
        (pod(state={"running": {}}), PodPhase.RUNNING),
        (pod(conditions=[SCHEDULED, READY], state={"running": {"startedAt": "2026-01-01T00:00:05Z"}}), PodPhase.READY),
        (pod(phase="Failed"), PodPhase.FAILED),
        (pod(metadata={"deletionTimestamp": "2026-01-01T00:01:00Z"}), PodPhase.TERMINATING),
    ],
)
def test_the_phase_says_how_far_a_pod_came(raw, phase):
    assert causes.view(raw).phase is phase


def test_times_are_seconds_since_the_epoch():
    view = causes.view(pod(conditions=[SCHEDULED, READY], state={"running": {"startedAt": "2026-01-01T00:00:05Z"}}))
    assert [view.scheduled_at - view.created_at, view.started_at - view.created_at, view.ready_at - view.created_at] == [2, 5, 30]


def test_the_most_specific_cause_wins():
    views = [causes.view(CASES[name][0]) for name in ("crash", "no image", "told by the runtime")]
    assert causes.root_cause(views, None).reason == Reason.IMAGE_PULL_FAILED


def test_a_pod_waits_quietly_for_the_one_that_stops():
    stuck = causes.view(CASES["no device free"][0])
    stopping = causes.view(pod(metadata={"deletionTimestamp": "2026-01-01T00:01:00Z"}))
    assert causes.root_cause([stuck, stopping], None) is None
    assert causes.root_cause([stuck], None).reason == Reason.INSUFFICIENT_GPU


def test_an_ended_pod_counts_only_when_no_other_is_left():
    evicted, loading = causes.view(CASES["evicted"][0]), causes.view(pod(state={"running": {}}))
    assert causes.root_cause([evicted, loading], None) is None
    assert causes.root_cause([evicted], None).reason == Reason.OUT_OF_MEMORY


@pytest.mark.parametrize(
    ("told", "reason", "words"),
    [
        ('pods "a-x1" is forbidden: exceeded quota: team, requested: cpu=1, limited: cpu=1', Reason.QUOTA_EXCEEDED, "ResourceQuota"),
        ('pods "a-x1" is forbidden: violates PodSecurity "restricted:latest"', Reason.INVALID_SPEC, "Pod Security"),
        ('pods "a-x1" is forbidden: no PriorityClass with name high was found', Reason.INVALID_SPEC, "priorityClassName"),
        ('pods "a-x1" is forbidden: pod rejected: RuntimeClass "gvisor" not found', Reason.INVALID_SPEC, "runtimeClassName"),
    ],
)
def test_pods_that_cannot_be_made_are_explained(told, reason, words):
    deployment = {"status": {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": told}]}}
    problem = causes.root_cause([], deployment)
    assert (problem.reason, words in problem.remedy, "a-x1" in problem.message) == (reason, True, False)


def test_a_missing_secret_is_read_from_the_events():
    view = causes.view(waiting("ContainerCreating"))
    told = 'MountVolume.SetUp failed for volume "token" : secret "hub" not found'
    problem = causes.mount_failure(
        view, [{"type": "Normal", "reason": "Scheduled", "message": ""}, {"type": "Warning", "reason": "FailedMount", "message": told}]
    )
    assert problem.reason == Reason.UNAUTHORIZED
    assert "Create Secret hub with the key `token`" in problem.remedy
    assert causes.mount_failure(view, []) is None


def test_every_exit_code_has_a_remedy():
    for reason, code in EXIT_CODES.items():
        problem = causes.view(ended(code)).problem
        assert (problem.reason, bool(problem.remedy)) == (reason, True)


def test_a_long_log_is_cut():
    assert len(causes.view(ended(1, "x" * 4000)).problem.message) < 700
    assert json.loads(WEIGHTS.to_json())["reason"] == "WeightsNotFound"
