"""A real API server and the local checks say the same of manifests; the client parts live through its faults.

Needs only a control plane (`KUBECONFIG`); installs the CRDs itself.
"""

import asyncio
import json
import shutil
import subprocess
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import API_VERSION
from modelyard.api.validation import InvalidManifest, load_manifests, validate
from modelyard.kube import apply
from modelyard.kube.client import APPLY_PATCH, ApiFailure, KubeClient, Resource
from modelyard.kube.events import EVENTS, emit
from modelyard.kube.informer import Informer
from modelyard.kube.lease import LeaderLease

ROOT = Path(__file__).parents[1]
BAD = yaml.safe_load((ROOT / "tests/data/bad_manifests.yaml").read_text())
GOOD = yaml.safe_load((ROOT / "tests/data/good_manifests.yaml").read_text())
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
CONFIG_MAPS = Resource("v1", "configmaps")
STRICT = {"fieldValidation": "Strict", "dryRun": "All"}


@pytest.fixture
async def client() -> AsyncIterator[KubeClient]:
    async with await KubeClient.connect() as connected:
        for file in (ROOT / "crds").glob("*.yaml"):
            manifest = yaml.safe_load(file.read_text())
            path = CRDS.path(name=manifest["metadata"]["name"])
            await connected.patch(path, manifest, content_type=APPLY_PATCH, params={"fieldManager": "e2e", "force": "true"})
            async with asyncio.timeout(30):
                while not await established(connected, path):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
        yield connected


@pytest.fixture
async def namespace(client: KubeClient) -> AsyncIterator[str]:
    name = f"api-{uuid.uuid4().hex[:8]}"
    await client.create("/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    yield name
    await client.delete(f"/api/v1/namespaces/{name}")


async def established(client: KubeClient, path: str) -> bool:
    conditions = (await client.get(path)).get("status", {}).get("conditions") or []  # null at first
    return any(condition["type"] == "Established" and condition["status"] == "True" for condition in conditions)


def manifest(namespace: str, spec: dict[str, Any] | None = None, name: str = "row") -> dict[str, Any]:
    model = {"model": {"source": "builtin://tiny-chat"}}
    return {
        "apiVersion": API_VERSION,
        "kind": "InferenceModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": merged(model, spec or {}),
    }


def merged(base: Any, over: Any) -> Any:
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    return over


def of_row(row: dict[str, Any], namespace: str) -> dict[str, Any]:
    if "manifest" in row:
        return merged(row["manifest"], {"metadata": {"namespace": namespace}})
    return merged(manifest(namespace, row.get("spec")), {"metadata": row.get("metadata", {})})


async def refusal(client: KubeClient, body: dict[str, Any]) -> str:
    plural = apply.PLURALS[body["kind"]]
    with pytest.raises(ApiFailure) as refused:
        await client.create(Resource(API_VERSION, plural).path(body["metadata"]["namespace"]), body, params=STRICT)
    assert refused.value.invalid, refused.value
    return refused.value.message


async def test_bad_manifests_are_refused_with_the_same_words(client: KubeClient, namespace: str) -> None:
    for row in BAD:
        body = of_row(row, namespace)
        remote = await refusal(client, body)
        with pytest.raises(InvalidManifest) as local:
            load_manifests(yaml.safe_dump(body), "bad.yaml")
        for words in row["words"]:
            assert words in remote, (body["spec"], remote)
            assert words in str(local.value)
        for problem in local.value.problems:
            assert problem.removeprefix("<nil>: ") in remote.replace('"object": ', ""), (body["spec"], remote)


async def test_good_manifests_get_the_same_defaults(client: KubeClient, namespace: str) -> None:
    for spec in GOOD:
        body = json.loads(json.dumps(manifest(namespace, spec)).replace("2.0", "2"))  # as kubectl sends it
        stored = await client.create(Resource(API_VERSION, "inferencemodels").path(namespace), body, params=STRICT)
        complete = validate(manifest(namespace, spec), "good.yaml")
        assert stored["spec"] == complete["spec"]
        assert InferenceModel.model_validate(stored).spec == InferenceModel.model_validate(complete).spec


async def test_scale_sets_the_floor_and_reads_the_status(client: KubeClient, namespace: str) -> None:
    path = Resource(API_VERSION, "inferencemodels").path(namespace, "row")
    created = await apply.apply(client, manifest(namespace, {"scaling": {"maxReplicas": 4}}))
    status = {"replicas": 2, "readyReplicas": 1, "selector": "modelyard.dev/model=row"}
    identity = {"name": "row", "namespace": namespace, "uid": created["metadata"]["uid"]}
    await apply.apply_status(client, {"apiVersion": API_VERSION, "kind": "InferenceModel", "metadata": identity, "status": status})
    scale = await client.patch(f"{path}/scale", {"spec": {"replicas": 3}})
    assert scale["spec"]["replicas"] == 3
    assert scale["status"] == {"replicas": 2, "selector": "modelyard.dev/model=row"}
    assert (await client.get(path))["spec"]["scaling"]["minReplicas"] == 3
    with pytest.raises(ApiFailure, match="must not be less than minReplicas"):
        await client.patch(f"{path}/scale", {"spec": {"replicas": 5}})
    await apply.apply_status(client, {"apiVersion": API_VERSION, "kind": "InferenceModel", "metadata": identity, "status": {"replicas": 1}})
    assert (await client.get(path))["status"] == {"replicas": 1}
    await apply.delete(client, API_VERSION, "InferenceModel", namespace, "row")
    with pytest.raises(ApiFailure) as refused:
        await apply.apply_status(
            client, {"apiVersion": API_VERSION, "kind": "InferenceModel", "metadata": identity, "status": {"replicas": 9}}
        )
    assert refused.value.not_found


async def test_kubectl_shows_the_columns(client: KubeClient, namespace: str) -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl must be on the PATH"
    created = await apply.apply(client, manifest(namespace))
    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "InsufficientGPU",
        "message": "",
        "lastTransitionTime": "2026-01-01T00:00:00Z",
    }
    status = {"conditions": [condition], "readyReplicas": 0, "url": "http://gateway/v1"}
    metadata = {"name": "row", "namespace": namespace, "uid": created["metadata"]["uid"]}
    await apply.apply_status(client, {"apiVersion": API_VERSION, "kind": "InferenceModel", "metadata": metadata, "status": status})
    run = await asyncio.to_thread(subprocess.run, [kubectl, "get", "im", "-n", namespace], capture_output=True, text=True, check=True)
    header, row = (line.split() for line in run.stdout.splitlines())
    assert header == ["NAME", "READY", "REASON", "REPLICAS", "SOURCE", "URL", "AGE"]
    assert row[:-1] == ["row", "False", "InsufficientGPU", "0", "builtin://tiny-chat", "http://gateway/v1"]


async def test_apply_is_idempotent_and_notices_drift(client: KubeClient, namespace: str) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "row", "namespace": namespace, "labels": {"a": "b"}},
        "spec": {"selector": {"x": "y"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
    live = await apply.apply(client, service)
    assert not apply.differs(service, live)
    changed = await client.patch(apply.path_of(service), {"spec": {"selector": {"x": "z"}}})
    assert apply.differs(service, changed)
    assert not apply.differs(service, await apply.apply(client, service))
    fewer = {**service, "metadata": {"name": "row", "namespace": namespace}}
    assert apply.differs(fewer, changed)
    assert "labels" not in (await apply.apply(client, fewer))["metadata"]
    assert await apply.delete(client, "v1", "Service", namespace, "row")
    assert not await apply.delete(client, "v1", "Service", namespace, "row")


async def test_an_informer_follows(client: KubeClient, namespace: str) -> None:
    changes: asyncio.Queue[Any] = asyncio.Queue()
    informer = Informer(
        client,
        CONFIG_MAPS,
        namespace=namespace,
        label_selector="watched",
        project=lambda found: found.get("data"),
        on_change=lambda key, old, new: changes.put_nowait((key.name, old, new)),
    )
    task = asyncio.create_task(informer.run())
    try:
        await asyncio.wait_for(informer.synced.wait(), 20)
        config = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a", "namespace": namespace, "labels": {"watched": ""}},
            "data": {"x": "1"},
        }
        await apply.apply(client, config)
        assert await asyncio.wait_for(changes.get(), 10) == ("a", None, {"x": "1"})
        await apply.apply(client, {**config, "data": {"x": "2"}})
        assert await asyncio.wait_for(changes.get(), 10) == ("a", {"x": "1"}, {"x": "2"})
        await apply.delete(client, "v1", "ConfigMap", namespace, "a")
        assert await asyncio.wait_for(changes.get(), 10) == ("a", {"x": "2"}, None)
        assert informer.age < 20
    finally:
        task.cancel()


async def test_a_lease_is_handed_over(client: KubeClient, namespace: str) -> None:
    took: asyncio.Queue[str] = asyncio.Queue()

    def candidate(name: str) -> asyncio.Task[None]:
        lease = LeaderLease(
            client,
            namespace,
            "leader",
            name,
            duration=2,
            deadline=1.5,
            renew=0.5,
            on_change=lambda leads: took.put_nowait(f"{name} {leads}"),
        )
        return asyncio.create_task(lease.run())

    first = candidate("first")
    assert await asyncio.wait_for(took.get(), 10) == "first True"
    second = candidate("second")
    first.cancel()
    try:
        assert await asyncio.wait_for(took.get(), 10) == "first False"
        assert await asyncio.wait_for(took.get(), 10) == "second True"
    finally:
        second.cancel()
        await asyncio.wait({second})


async def test_events_are_counted(client: KubeClient, namespace: str) -> None:
    model = InferenceModel.model_validate(await apply.apply(client, manifest(namespace)))

    class Event:
        type, reason, message = "Warning", "InsufficientGPU", "no node has a free GPU"

    await emit(client, model, Event())
    await emit(client, model, Event())
    (event,) = await client.list(EVENTS.path(namespace))
    assert (event["count"], event["involvedObject"]["name"], event["reason"]) == (2, "row", "InsufficientGPU")


async def test_explain_reads_the_docs(client: KubeClient) -> None:
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl must be on the PATH"
    run = await asyncio.to_thread(
        subprocess.run, [kubectl, "explain", "im.spec.scaling"], capture_output=True, text=True, check=True, env=None
    )
    assert "Fewest replicas; 0 stops the last one when idle, and a request wakes it." in " ".join(run.stdout.split())
