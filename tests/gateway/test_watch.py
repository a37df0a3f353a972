"""The feed from a cluster, against a small API server on loopback; and the whole program, from start to SIGTERM."""

import asyncio
import json
import os
import signal
import sys

import aiohttp
import pytest
from aiohttp import web
from modelyard.api.names import child_name
from modelyard.gateway.directory import Directory
from modelyard.gateway.types import Endpoint
from modelyard.gateway.watch import ClusterWatch, record_of, slice_of
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import Credentials

MODELS = "/apis/modelyard.dev/v1alpha1/inferencemodels"
SLICES = "/apis/discovery.k8s.io/v1/endpointslices"


def model(name="chat", ready=None, namespace="default", **spec):
    conditions = [] if ready is None else [{"type": "Ready", "status": "False", "reason": ready, "message": "because"}]
    metadata = {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"}
    return {"metadata": metadata, "spec": spec, "status": {"conditions": conditions, "capabilities": ["chat"]}}


def endpoint_slice(name, label, *addresses, ready=True, port=8000, port_name="http"):
    return {
        "metadata": {"name": name, "namespace": "default", "labels": {"modelyard.dev/model": label}},
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}} for address in addresses],
    }


class ApiServer:
    """Two collections, listed and watched."""

    def __init__(self):
        self.items = {MODELS: {}, SLICES: {}}
        self.version = 1
        self.streams = {MODELS: [], SLICES: []}
        self.frozen = False
        self.port = 0

    async def put(self, path, item):
        await self._tell(path, "MODIFIED", item)
        self.items[path][item["metadata"]["name"]] = item

    async def drop(self, path, name):
        await self._tell(path, "DELETED", self.items[path].pop(name))

    async def _tell(self, path, kind, item):
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        for stream in self.streams[path]:
            await stream.write(json.dumps({"type": kind, "object": item}).encode() + b"\n")

    async def handle(self, request):
        if self.frozen:
            return web.json_response({"message": "gone"}, status=503)
        if "watch" not in request.query:
            return web.json_response({"metadata": {"resourceVersion": str(self.version)}, "items": list(self.items[request.path].values())})
        stream = web.StreamResponse()
        await stream.prepare(request)
        self.streams[request.path].append(stream)
        while not self.frozen:  # noqa: ASYNC110  (thawed and frozen again and again)
            await asyncio.sleep(0.02)
        self.streams[request.path].remove(stream)
        return stream


@pytest.fixture
async def api():
    server = ApiServer()
    app = web.Application()
    app.router.add_get(MODELS, server.handle)
    app.router.add_get(SLICES, server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0, handler_cancellation=True)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.port = runner.addresses[0][1]
    yield server
    server.frozen = True
    await runner.cleanup()


@pytest.fixture
async def watched(api):
    """A directory that follows the API server."""
    directory = Directory()
    async with KubeClient(Credentials(f"http://127.0.0.1:{api.port}", None, lambda: None)) as client:
        watch = ClusterWatch(client, directory, "")
        following = asyncio.create_task(watch.run())
        yield watch, directory
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_models_and_endpoints_come_and_go(api, watched, until):
    watch, directory = watched
    await until(lambda: watch.synced and all(api.streams.values()))
    await api.put(SLICES, endpoint_slice("chat-1", "chat", "10.0.0.1", "10.0.0.2"))
    await api.put(MODELS, model(model={"source": "builtin://x", "aliases": ["gpt"]}))
    await until(lambda: len(directory.endpoints("default/chat")) == 2)
    assert directory.resolve("gpt").key == "default/chat"
    await api.put(SLICES, endpoint_slice("chat-2", "chat", "10.0.0.3"))
    await until(lambda: len(directory.endpoints("default/chat")) == 3)
    await api.drop(SLICES, "chat-1")
    await until(lambda: directory.endpoints("default/chat") == {Endpoint("10.0.0.3", 8000)})
    await api.put(SLICES, endpoint_slice("chat-2", "chat", "10.0.0.3", ready=False))
    await until(lambda: not directory.endpoints("default/chat"))
    await api.drop(MODELS, "chat")
    await until(lambda: not directory.models())


async def test_long_names_find_their_endpoints(api, watched, until):
    _, directory = watched
    name = "m" * 100
    api.items[MODELS][name] = model(name)
    await api.put(SLICES, endpoint_slice("s", child_name(name), "10.0.0.1"))
    await until(lambda: bool(directory.endpoints(f"default/{name}")))


async def test_what_is_known_outlives_the_api_server(api, watched, until):
    watch, directory = watched
    api.items[MODELS]["chat"] = model()
    api.items[SLICES]["chat"] = endpoint_slice("chat", "chat", "10.0.0.1")
    await until(lambda: bool(directory.endpoints("default/chat")) and all(api.streams.values()))
    api.frozen = True
    await until(lambda: not any(api.streams.values()))
    assert watch.synced
    assert directory.endpoints("default/chat") == {Endpoint("10.0.0.1", 8000)}
    api.items[SLICES]["chat"] = endpoint_slice("chat", "chat", "10.0.0.2")
    api.frozen = False
    await until(lambda: all(api.streams.values()))
    await api.put(SLICES, endpoint_slice("chat", "chat", "10.0.0.2"))
    await until(lambda: directory.endpoints("default/chat") == {Endpoint("10.0.0.2", 8000)})


def test_a_model_is_read_with_its_bounds():
    raw = model(
        model={"aliases": ["a"]},
        scaling={"coldStart": {"maxWait": "1m30s", "maxQueue": 5, "keepalive": "0s"}},
        limits={"requestTimeout": "2m"},
    )
    record = record_of(raw)
    assert (record.max_wait, record.max_queue, record.keepalive, record.request_timeout) == (90, 5, 0, 120)
    assert (record.key, record.aliases, record.capabilities, record.blocked) == ("default/chat", ("a",), ("chat",), None)


def test_a_bare_model_has_the_defaults():
    record = record_of({"metadata": {"name": "a", "namespace": "b"}})
    assert (record.max_wait, record.max_queue, record.keepalive, record.request_timeout, record.created) == (600, 100, 15, 600, "")


@pytest.mark.parametrize(
    ("reason", "blocked"),
    [
        ("InsufficientGPU", "InsufficientGPU: because"),
        ("WeightsNotFound", "WeightsNotFound: because"),
        ("Loading", None),
        ("ScaledToZero", None),
        ("NameConflict", None),
        ("SomethingNew", None),
    ],
)
def test_only_causes_that_somebody_must_remove_block(reason, blocked):
    assert record_of(model(ready=reason)).blocked == blocked


@pytest.mark.parametrize(
    "raw",
    [
        endpoint_slice("a", "chat", "10.0.0.1", port_name="metrics"),
        endpoint_slice("a", "chat", "10.0.0.1", ready=False),
        endpoint_slice("a", "chat") | {"endpoints": None, "ports": None},
        endpoint_slice("a", "chat", "example.org") | {"addressType": "FQDN"},
    ],
)
def test_slices_without_a_usable_endpoint(raw):
    assert slice_of(raw).endpoints == frozenset()


def test_conditions_left_out_mean_ready():
    raw = endpoint_slice("a", "chat", "10.0.0.1")
    del raw["endpoints"][0]["conditions"]
    assert slice_of(raw).endpoints == {Endpoint("10.0.0.1", 8000)}


async def run(*arguments, **environment):
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "modelyard.gateway.main", *arguments),
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_the_program_serves_drains_and_exits_with_0(api, replica, tmp_path):
    one = await replica()
    api.items[MODELS]["chat"] = model()
    api.items[SLICES]["chat"] = endpoint_slice("chat", "chat", "127.0.0.1", port=one.endpoint.port)
    cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{api.port}"}}
    context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
    config = {"apiVersion": "v1", "kind": "Config", "current-context": "c", "clusters": [cluster], "contexts": [context]}
    path = tmp_path / "kubeconfig"
    path.write_text(json.dumps(config | {"users": [{"name": "u", "user": {}}]}))
    child = await run("--host=127.0.0.1", "--port=0", "--private-port=0", MODELYARD_SETTLE_TIME="100ms", KUBECONFIG=str(path))
    async with asyncio.timeout(60):
        ports = {}
        while not ports:
            words = json.loads(await child.stderr.readline())["message"].replace(",", "").split()
            if words[0] == "listening":
                ports = {"public": words[3], "private": words[-1]}
        async with aiohttp.ClientSession() as session:
            ready = 0
            while ready != 200:
                async with session.get(f"http://127.0.0.1:{ports['private']}/readyz") as answer:
                    ready = answer.status
            async with session.post(f"http://127.0.0.1:{ports['public']}/v1/chat/completions", json={"model": "chat"}) as answer:
                assert (answer.status, await answer.json()) == (200, {"ok": True})
        child.send_signal(signal.SIGTERM)
        output, errors = await child.communicate()
    assert child.returncode == 0, errors
    lines = [json.loads(line) for line in output.splitlines()]
    assert [(line["model"], line["status"], line["path"]) for line in lines] == [("default/chat", 200, "/v1/chat/completions")]
    assert json.loads(errors.splitlines()[-1])["message"] == "stopped"


async def test_bad_settings_are_named_and_fatal():
    child = await run("--port=99999", MODELYARD_IDLE_TIMEOUT="5", MODELYARD_MAX_BODY_BYTES="-1")
    async with asyncio.timeout(60):
        _, errors = await child.communicate()
    assert child.returncode == 2
    named = {line.split(": ")[1] for line in errors.decode().splitlines()}
    assert named == {"--port", "MODELYARD_IDLE_TIMEOUT", "MODELYARD_MAX_BODY_BYTES"}


async def test_help_explains_every_flag():
    child = await run("--help")
    async with asyncio.timeout(60):
        output, _ = await child.communicate()
    assert child.returncode == 0
    assert b"--drain-timeout" in output


def test_a_pods_log_is_not_shown_to_api_clients():
    raw = model(ready="CrashLoop")
    raw["status"]["conditions"][0]["message"] = "pod a: ended with exit code 1; last log line: password=hunter2. Read the log."
    assert record_of(raw).blocked == "CrashLoop: pod a: ended with exit code 1"
