"""Models as values, and an API server on loopback that stores objects, applies, lists and watches as the real one does."""

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson
import pytest
from aiohttp import web
from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import API_VERSION, GROUP, KIND, VERSION
from modelyard.controller.types import PodPhase, PodView
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import Credentials

Spec = dict[str, Any]


def raw_model(name: str = "assistant", *, namespace: str = "default", uid: str = "uid-1", **spec: Any) -> dict[str, Any]:
    metadata = {
        "name": name,
        "namespace": namespace,
        "uid": uid,
        "generation": 1,
        "resourceVersion": "1",
        "creationTimestamp": "2026-01-01T00:00:00Z",
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": {"model": {"source": "builtin://tiny-chat"}} | spec}


@pytest.fixture
def make_raw() -> Callable[..., dict[str, Any]]:
    return raw_model


@pytest.fixture
def make_model() -> Callable[..., InferenceModel]:
    return lambda name="assistant", **spec: InferenceModel.model_validate(raw_model(name, **spec))


@pytest.fixture
def make_pod() -> Callable[..., PodView]:
    return lambda phase=PodPhase.READY, name="pod-1", **fields: PodView(name=name, phase=phase, **fields)


def _resources(plural: str, kind: str, *, namespaced: bool) -> dict[str, Any]:
    served = {"name": plural, "singularName": kind.lower(), "kind": kind, "namespaced": namespaced, "verbs": ["list", "watch", "patch"]}
    return {"kind": "APIResourceList", "resources": [served]}


def _group(name: str, version: str) -> dict[str, Any]:
    served = {"groupVersion": f"{name}/{version}", "version": version}
    return {"name": name, "versions": [served], "preferredVersion": served}


#: What kopf asks for before it watches.
DISCOVERY = {
    "/api": {"versions": ["v1"]},
    "/api/v1": _resources("namespaces", "Namespace", namespaced=False),
    "/apis": {"groups": [_group(GROUP, VERSION), _group("apiextensions.k8s.io", "v1")]},
    f"/apis/{API_VERSION}": _resources("inferencemodels", KIND, namespaced=True),
    "/apis/apiextensions.k8s.io/v1": _resources("customresourcedefinitions", "CustomResourceDefinition", namespaced=False),
}


class FakeApi:
    """Objects by path. ``refuse`` maps a path's beginning to the (status, message) that writes below it are answered with.

    What has one of ``unserved`` in its path is not found, as when its CRD is gone.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Any]] = {}
        self.calls: list[tuple[str, str]] = []
        self.refuse: dict[str, tuple[int, str]] = {}
        self.unserved: set[str] = set()
        self.url = ""
        self._versions = itertools.count(10)
        self._watches: list[tuple[str, asyncio.Queue[bytes | None]]] = []
        self._changed = asyncio.Event()

    def writes(self) -> list[tuple[str, str]]:
        return [(method, path) for method, path in self.calls if method not in ("GET", "WATCH")]

    def put(self, path: str, found: dict[str, Any]) -> dict[str, Any]:
        """Stores an object and tells the watches."""
        kind = "MODIFIED" if path in self.objects else "ADDED"
        found = copy.deepcopy(found)
        found["metadata"] |= {"resourceVersion": str(next(self._versions))}
        found["metadata"].setdefault("uid", f"uid-of-{path}")
        found["metadata"].setdefault("creationTimestamp", "2026-01-01T00:00:00Z")
        self.objects[path] = found
        self._tell(kind, path, found)
        return found

    def drop(self, path: str) -> None:
        found = self.objects.pop(path)
        found["metadata"]["resourceVersion"] = str(next(self._versions))
        self._tell("DELETED", path, found)

    async def until(self, met: Callable[[], bool]) -> None:
        """Waits until a condition on the stored objects holds."""
        async with asyncio.timeout(20):
            while not met():
                self._changed.clear()
                await self._changed.wait()

    def _tell(self, kind: str, path: str, found: dict[str, Any]) -> None:
        for prefix, queue in self._watches:
            if _below(path, prefix):
                queue.put_nowait(orjson.dumps({"type": kind, "object": found}) + b"\n")
        self._changed.set()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.path
        if any(part in path for part in self.unserved):
            self.calls.append(("UNSERVED", path))
            self._changed.set()
            return _failure(404)
        if "watch" in request.query:
            return await self._watch(request)
        self.calls.append((request.method, path))
        self._changed.set()
        for prefix, (status, message) in self.refuse.items():
            if request.method != "GET" and prefix in path:
                return _json({"kind": "Status", "reason": "Refused", "message": message}, status)
        body = orjson.loads(await request.read() or b"{}")
        return self._answer(request.method, path, body)

    def _answer(self, method: str, path: str, body: dict[str, Any]) -> web.Response:
        if method == "GET":
            return self._get(path)
        if method == "PATCH":
            return self._patch(path, body)
        if method == "DELETE":
            self.drop(path)
            return _json({})
        if method == "PUT":
            return _json(self.put(path, body))
        path = f"{path}/{body['metadata']['name']}"
        return _failure(409) if path in self.objects else _json(self.put(path, body), 201)

    def _get(self, path: str) -> web.Response:
        if path in DISCOVERY:
            return _json(DISCOVERY[path])
        if path in self.objects:
            return _json(self.objects[path])
        if path.rsplit("/", maxsplit=1)[-1] in ("namespaces", "events") or _is_collection(path):
            items = [found for stored, found in self.objects.items() if _below(stored, path)]
            return _json({"metadata": {"resourceVersion": str(next(self._versions))}, "items": items})
        return _failure(404)

    def _patch(self, path: str, body: dict[str, Any]) -> web.Response:
        """Server-side apply: what is said replaces what was said, but for replicas, which another manager holds once it set them."""
        if path.endswith("/status"):
            path = path.removesuffix("/status")
            if path not in self.objects:
                return _failure(404)
            return _json(self.put(path, self.objects[path] | {"status": body["status"]}))
        before = self.objects.get(path)
        if before is not None:
            body["metadata"] = {"uid": before["metadata"]["uid"]} | body["metadata"]
            if "replicas" in before.get("spec", {}):
                body["spec"] = {"replicas": before["spec"]["replicas"]} | body["spec"]
        return _json(self.put(path, body), 200 if before else 201)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.calls.append(("WATCH", request.path))
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        since = int(request.query["resourceVersion"])
        for path, found in self.objects.items():
            if _below(path, request.path) and int(found["metadata"]["resourceVersion"]) > since:
                queue.put_nowait(orjson.dumps({"type": "ADDED", "object": found}) + b"\n")
        self._watches.append((request.path, queue))
        response = web.StreamResponse()
        await response.prepare(request)
        while (line := await queue.get()) is not None:
            await response.write(line)
        return response

    def close(self) -> None:
        """Ends all watches."""
        for _, queue in self._watches:
            queue.put_nowait(None)
        self._watches.clear()


def _is_collection(path: str) -> bool:
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    return len(rest) in (1, 3)


def _below(path: str, collection: str) -> bool:
    """Returns whether an object's path belongs to a collection, of one namespace or of all."""
    return path.rpartition("/")[0] == collection or (
        "/namespaces/" not in collection
        and path.split("/")[-2] == collection.rpartition("/")[2]
        and path.startswith(collection.rpartition("/")[0] + "/")
    )


def _json(body: Any, status: int = 200) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(body), content_type="application/json")


def _failure(status: int) -> web.Response:
    return _json({"kind": "Status", "reason": {404: "NotFound", 409: "AlreadyExists"}[status], "message": "no such object"}, status)


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield fake
    fake.close()
    await runner.cleanup()


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[KubeClient]:
    async with KubeClient(Credentials(api.url, None, lambda: None)) as client:
        yield client
