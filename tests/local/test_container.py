"""From a planned pod to a command of this machine."""

import sys
from pathlib import Path

import pytest
from modelyard.api.validation import load_manifests
from modelyard.controller.plan import plan
from modelyard.controller.types import BuildSettings, Observed
from modelyard.local import container
from modelyard.local.container import Mounts, Place

PLACE = Place("127.0.0.1", 1234, 1235, Path("/cache"), Path("/state/x.termination"))


def pod_spec(spec):
    text = f"{{apiVersion: modelyard.dev/v1alpha1, kind: InferenceModel, metadata: {{name: m}}, spec: {spec}}}"
    [model] = load_manifests(text, "m.yaml")
    deployment = next(one for one in plan(model, Observed(), BuildSettings()).desired if one["kind"] == "Deployment")
    return deployment["spec"]["template"]["spec"]


def test_the_planned_arguments_reach_the_installed_runtime():
    planned = pod_spec("{model: {source: 'builtin://tiny-chat'}, limits: {maxQueue: 7}, engine: {args: [--device=cpu]}}")
    command = container.command(planned, Mounts())
    assert command[:4] == [sys.executable, "-m", "modelyard_runtime.main", "serve"]
    assert {"--model=builtin://tiny-chat", "--served-model-name=m", "--max-queue=7", "--device=cpu"} <= set(command)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("pvc://weights/a/b", "--model=file:///data/w/a/b"),
        ("file:///models/weights/x", "--model=file:///models/weights/x"),
    ],
)
def test_a_claim_is_a_folder_here(source, expected):
    mounts = Mounts(claims={"weights": Path("/data/w")})
    planned = pod_spec(f"{{model: {{source: '{source}'}}}}")
    assert expected in container.command(planned, mounts)
    assert container.obstacle("m-1", planned, mounts) is None


def test_the_environment_is_the_users_then_the_pods_then_the_places():
    planned = pod_spec(
        "{model: {source: 'builtin://tiny-chat', credentialsSecret: hub}, "
        "engine: {env: [{name: OMP_NUM_THREADS, value: '2'}, {name: MINE, value: /tmp}]}}"
    )
    inherited = {"PATH": "/bin", "HOME": "/home/me", "OMP_NUM_THREADS": "1", "MODELYARD_PORT": "8080", "MODELYARD_LOG_LEVEL": "debug"}
    told = container.environment(planned, Mounts(secrets={"hub": Path("/home/me/token")}), PLACE, inherited)
    assert told["PATH"] == "/bin"
    assert told["HOME"] == "/home/me"
    assert "TMPDIR" not in told
    assert "NVIDIA_VISIBLE_DEVICES" not in told
    assert (told["OMP_NUM_THREADS"], told["MINE"]) == ("2", "/tmp")
    assert told["CUDA_VISIBLE_DEVICES"] == ""
    own = {name.removeprefix("MODELYARD_"): value for name, value in told.items() if name.startswith("MODELYARD_")}
    assert own == {
        "HOST": "127.0.0.1",
        "PORT": "1234",
        "METRICS_PORT": "1235",
        "CACHE_DIR": "/cache",
        "TERMINATION_LOG": "/state/x.termination",
        "SETTLE_TIME": "300ms",
        "TOKEN_FILE": "/home/me/token",
        "LOG_LEVEL": "debug",
    }


def test_devices_are_those_that_the_plan_asks_for():
    planned = pod_spec("{model: {source: 'builtin://tiny-chat'}, resources: {gpu: {count: 2}, memory: 4Gi}}")
    assert container.devices_wanted(planned) == {"nvidia.com/gpu": 2}


def test_the_claims_of_adapters_are_folders_too():
    mounts = Mounts(claims={"weights": Path("/data/w"), "loras": Path("/data/l")})
    planned = pod_spec("{model: {source: 'pvc://weights/a'}, engine: {adapters: [{name: sql, source: 'pvc://loras/sql'}]}}")
    assert {"--model=file:///data/w/a", "--adapter=sql=file:///data/l/sql"} <= set(container.command(planned, mounts))


def test_an_object_stores_credentials_are_the_users_own_or_a_named_file():
    amazon = pod_spec("{model: {source: 's3://bucket/a', credentialsSecret: keys}}")
    assert container.obstacle("m-1", amazon, Mounts()) is None
    told = container.environment(amazon, Mounts(), PLACE, {"AWS_ACCESS_KEY_ID": "mine"})
    assert told["AWS_ACCESS_KEY_ID"] == "mine"
    google = pod_spec("{model: {source: 'gs://bucket/a', credentialsSecret: keys}}")
    told = container.environment(google, Mounts(secrets={"keys": Path("/home/me/key.json")}), PLACE, {})
    assert told["GOOGLE_APPLICATION_CREDENTIALS"] == "/home/me/key.json"
