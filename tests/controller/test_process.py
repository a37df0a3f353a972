"""The whole process, kopf included, against the API server on loopback."""

import asyncio
import json
import os
import sys
from contextlib import asynccontextmanager

import aiohttp
import kopf
import pytest
import yaml
from modelyard.api.names import API_VERSION
from modelyard.controller import handlers
from modelyard.controller.process import Operator
from modelyard.controller.settings import OperatorSettings

MODELS = f"/apis/{API_VERSION}/namespaces/default/inferencemodels"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/modelyard-system/leases/modelyard-operator"


@pytest.fixture
def kubeconfig(api, tmp_path):
    named = (
        [{"name": "fake", "cluster": {"server": api.url}}],
        [{"name": "fake", "user": {}}],
        [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
    )
    clusters, users, contexts = named
    path = tmp_path / "kubeconfig"
    path.write_text(
        yaml.safe_dump(
            {"apiVersion": "v1", "kind": "Config", "clusters": clusters, "users": users, "contexts": contexts, "current-context": "fake"}
        )
    )
    return path


@asynccontextmanager
async def operator(kubeconfig, identity, *flags):
    """Runs an operator process; ends it with SIGTERM and yields it with its standard error."""
    command = [sys.executable, "-m", "modelyard.controller.main", "--host=127.0.0.1", "--port=0", f"--identity={identity}", *flags]
    process = await asyncio.create_subprocess_exec(
        *command, env=os.environ | {"KUBECONFIG": str(kubeconfig)}, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(30):
            _, told = await process.communicate()
            print(told.decode())  # shown when the test fails


async def test_a_model_becomes_a_deployment_and_a_second_operator_takes_over(api, kubeconfig, make_raw):
    flags = ("--lease-duration=3",)
    async with operator(kubeconfig, "first", *flags) as first:
        api.put(f"{MODELS}/assistant", make_raw())
        await api.until(lambda: f"{DEPLOYMENTS}/assistant" in api.objects)
        assert api.objects[LEASE]["spec"]["holderIdentity"] == "first"
        await api.until(lambda: "status" in api.objects[f"{MODELS}/assistant"])
        async with operator(kubeconfig, "second", *flags):
            await api.until(lambda: len([call for call in api.calls if call == ("WATCH", "/apis/apps/v1/deployments")]) == 2)
            first.kill()
            api.put(f"{MODELS}/another", make_raw("another", uid="uid-2"))
            await api.until(lambda: f"{DEPLOYMENTS}/another" in api.objects)
            assert api.objects[LEASE]["spec"]["holderIdentity"] == "second"
        assert api.objects[LEASE]["spec"]["holderIdentity"] == ""  # given back at SIGTERM
    annotations = api.objects[f"{MODELS}/assistant"]["metadata"].keys() & {"annotations", "finalizers"}
    assert not annotations  # kopf writes nothing of its own


async def test_logs_are_json_and_the_exit_code_is_zero(api, kubeconfig):
    async with operator(kubeconfig, "only", "--lease-duration=3") as process:
        await api.until(lambda: LEASE in api.objects)
        line = json.loads(await process.stderr.readline())
        assert line["message"] == "became the leader"
        process.terminate()
        async with asyncio.timeout(30):
            assert await process.wait() == 0


async def test_the_probes_prove_work(api, kubeconfig, unused_tcp_port):
    async with operator(kubeconfig, "only", f"--port={unused_tcp_port}"), aiohttp.ClientSession() as session:
        await api.until(lambda: LEASE in api.objects)
        url = f"http://127.0.0.1:{unused_tcp_port}"
        for path, words in (("/healthz", "ok"), ("/readyz", "ok"), ("/metrics", "modelyard_operator_queue_depth 0.0")):
            async with session.get(url + path) as response:
                assert response.status == 200
                assert words in await response.text()


async def test_it_outlives_the_crd(api, kubeconfig, make_raw):
    async with operator(kubeconfig, "only", "--lease-duration=3") as process:
        api.put(f"{MODELS}/assistant", make_raw())
        await api.until(lambda: "status" in api.objects.get(f"{MODELS}/assistant", {}))
        for path in (f"{MODELS}/assistant", f"{DEPLOYMENTS}/assistant"):
            api.drop(path)
        api.unserved.add("inferencemodels")
        api.close()
        asked = ("UNSERVED", f"/apis/{API_VERSION}/inferencemodels")
        await api.until(lambda: api.calls.count(asked) >= 3)  # the watch, the question why it ended, and the wait
        api.unserved.clear()
        api.put(f"{MODELS}/another", make_raw("another", uid="uid-2"))
        await api.until(lambda: f"{DEPLOYMENTS}/another" in api.objects)
        assert process.returncode is None
        assert f"{DEPLOYMENTS}/assistant" not in api.objects


def test_no_timer_of_an_ended_run_kills_the_next():
    settings = kopf.OperatorSettings()
    handlers.configure(settings)
    assert settings.process.ultimate_exiting_timeout is None


async def test_a_standby_keeps_no_keys_of_models_that_are_gone(client, make_raw):
    standby = Operator(OperatorSettings(), client)
    standby.model_seen("ADDED", make_raw())
    assert len(standby.queue) == 1
    standby.model_seen("DELETED", make_raw())
    assert (len(standby.queue), len(standby.models)) == (0, 0)
