"""Each root cause, provoked for real: the status names it with a remedy, the gateway refuses at once, and the repair clears it."""

import json
import time
from typing import Any, NamedTuple

import pytest
from harness import RESTRICTED, SYSTEM, Manifest, Model, apply, eventually, get, kubectl
from openai import APIStatusError, OpenAI

GOOD: Manifest = {"model": {"source": "builtin://tiny-chat"}, "resources": {"cpu": "50m", "memory": "1Gi"}}
#: A safetensors file without tensors: the length of its header, and the header.
EMPTY_WEIGHTS = r"printf '\002\000\000\000\000\000\000\000{}' > model.safetensors"


class Fault(NamedTuple):
    """A part of the spec that cannot work, and words that its message must hold."""

    reason: str
    spec: Manifest
    words: tuple[str, ...]


FAULTS = {
    "insufficient-gpu": Fault(
        "InsufficientGPU", {"resources": {"cpu": "50m", "gpu": {"count": 64}}}, ("nvidia.com/gpu", "spec.resources.gpu.count")
    ),
    "unschedulable": Fault("Unschedulable", {"pod": {"nodeSelector": {"example.com/nowhere": "yes"}}}, ("node", "spec.pod")),
    "image-pull-failed": Fault("ImagePullFailed", {"engine": {"image": "registry.invalid/nothing:1"}}, ("registry.invalid/nothing:1",)),
    "weights-not-found": Fault("WeightsNotFound", {"model": {"source": "file:///nowhere"}}, ("/nowhere", "model.source")),
    "unsupported-model": Fault("UnsupportedModel", {"model": {"source": "pvc://weights/odd"}}, ("no-such", "architecture")),
    "out-of-memory": Fault("OutOfMemory", {"resources": {"cpu": "50m", "memory": "64Mi"}}, ("memory", "spec.resources.memory")),
    "crash-loop": Fault("CrashLoop", {"engine": {"env": [{"name": "PYTHONHOME", "value": "/nowhere"}]}}, ("exit code", "log")),
    "engine-arguments-invalid": Fault(
        "EngineArgumentsInvalid", {"engine": {"args": ["--no-such-flag=1"]}}, ("--no-such-flag", "engine.args")
    ),
}


@pytest.fixture(scope="module")
def broken(namespace: str) -> dict[str, Model]:
    """All of the faults at once: each takes its time to show, and they need not wait for one another."""
    _write_odd_weights(namespace)
    models = {name: Model(namespace, name, GOOD | fault.spec) for name, fault in FAULTS.items()}
    for model in models.values():
        model.apply()
    return models


@pytest.mark.parametrize("name", FAULTS)
def test_a_cause_is_named_and_cleared(broken: dict[str, Model], openai: OpenAI, name: str) -> None:
    fault, model = FAULTS[name], broken[name]
    condition = model.wait_reason(fault.reason)
    print(json.dumps(condition))
    assert condition["status"] == "False"
    assert condition["observedGeneration"] == 1
    assert [word for word in fault.words if word not in condition["message"]] == []
    _assert_told_once(model, fault.reason)
    _assert_refused_at_once(model, openai, fault.reason)

    model.apply(GOOD)

    model.wait_ready()
    assert model.condition()["observedGeneration"] == 2
    assert openai.completions.create(model=model.key, prompt="Once", max_tokens=2).choices
    kubectl("-n", model.namespace, "delete", "im", model.name, "--wait=false")


def _assert_told_once(model: Model, reason: str) -> None:
    """Asserts one event, however often the pod failed since."""
    field = f"involvedObject.name={model.name},reason={reason}"
    events = eventually(lambda: get("-n", model.namespace, "events", "--field-selector", field)["items"], seconds=10)
    assert [event["type"] for event in events] == ["Warning"]


def _assert_refused_at_once(model: Model, openai: OpenAI, reason: str) -> None:
    """Asserts that a request is not held for a model that cannot start."""
    started = time.monotonic()
    with pytest.raises(APIStatusError) as refusal:
        openai.completions.create(model=model.key, prompt="Once", max_tokens=2)
    assert refusal.value.status_code == 503
    assert reason in str(refusal.value.body)
    assert time.monotonic() - started < 5


def _write_odd_weights(namespace: str) -> None:
    """Puts a model of an architecture that nobody knows on a volume. Only root may write there, which the restricted standard refuses."""
    kubectl("label", "namespace", namespace, RESTRICTED.replace("restricted", "baseline"), "--overwrite")
    claim: dict[str, Any] = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    config = json.dumps({"architectures": ["NoSuchForCausalLM"], "model_type": "no-such"})
    apply(
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "weights", "namespace": namespace}, "spec": claim},
        _writer(
            namespace,
            f"mkdir -p /weights/odd && cd /weights/odd && echo '{config}' > config.json && {EMPTY_WEIGHTS} && chmod -R a+rX /weights",
        ),
    )
    kubectl("-n", namespace, "wait", "--for=jsonpath={.status.phase}=Succeeded", "pod/writer", "--timeout=60s")
    kubectl("-n", namespace, "delete", "pod", "writer", "--wait=false")
    kubectl("label", "namespace", namespace, RESTRICTED, "--overwrite")


def _writer(namespace: str, script: str) -> Manifest:
    """Returns a pod that runs a script on the volume, in an image that is there already."""
    operator = get("-n", SYSTEM, "deployment", "modelyard-operator")
    container = {
        "name": "writer",
        "image": operator["spec"]["template"]["spec"]["containers"][0]["image"],
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "securityContext": {"runAsUser": 0},
        "volumeMounts": [{"name": "weights", "mountPath": "/weights"}],
    }
    volumes = [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}]
    spec = {"restartPolicy": "Never", "containers": [container], "volumes": volumes}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "writer", "namespace": namespace}, "spec": spec}
