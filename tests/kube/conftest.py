"""A small API server on loopback, for what a real one does too seldom: expiry, broken connections, throttling, silence."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web
from modelyard.kube.client import KubeClient
from modelyard.kube.credentials import Credentials


class FakeApi:
    """Collections by path with a history. ``failures`` are answers given instead of the next ones, first come first served."""

    def __init__(self) -> None:
        self.version = 0
        self.objects: dict[str, dict[str, Any]] = {}
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.oldest = 0
        self.failures: list[web.Response] = []
        self.requests: list[web.Request] = []
        self.token = "Bearer good"
        self.changed = asyncio.Condition()
        self.watching = asyncio.Semaphore(0)
        self.transports: set[asyncio.Transport] = set()
        self.page_expires = False
        self.port = 0
        self.closing = False

    async def put(self, name: str, **fields: Any) -> None:
        kind = "MODIFIED" if name in self.objects else "ADDED"
        await self._record(kind, {"metadata": {"name": name, "namespace": "ns"}, **fields})

    async def drop(self, name: str) -> None:
        await self._record("DELETED", self.objects[name])

    async def bookmark(self) -> None:
        await self._record("BOOKMARK", {"metadata": {}})

    async def _record(self, kind: str, found: dict[str, Any]) -> None:
        self.version += 1
        found = {**found, "metadata": {**found["metadata"], "resourceVersion": str(self.version)}}
        name = found["metadata"].get("name", "")
        if kind == "DELETED":
            del self.objects[name]
        elif name:
            self.objects[name] = found
        self.history.append((self.version, kind, found))
        async with self.changed:
            self.changed.notify_all()

    def forget(self) -> None:
        """Compacts the history: watches from earlier versions get 410."""
        self.oldest = self.version

    def cut(self) -> None:
        """Breaks all connections, as a crash does."""
        for transport in self.transports:
            transport.abort()
        self.transports.clear()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.headers.get("authorization", self.token) != self.token:
            return self.failure(401, "Unauthorized")
        if self.failures:
            return self.failures.pop(0)
        if request.query.get("watch"):
            return await self.watch(request)
        return self.answer(request, await request.text())

    def answer(self, request: web.Request, body: str) -> web.Response:
        name = request.path.rpartition("/")[2]
        if request.method == "GET" and name == "things":
            return self.page(request)
        if request.method == "GET":
            return web.json_response(self.objects[name]) if name in self.objects else self.failure(404, "NotFound")
        return web.json_response({"method": request.method, "body": body, "query": dict(request.query)})

    def page(self, request: web.Request) -> web.Response:
        start, limit = int(request.query.get("continue", 0)), int(request.query["limit"])
        if start and self.page_expires:
            self.page_expires = False
            return self.failure(410, "Expired")
        items = [self.objects[name] for name in sorted(self.objects)]
        metadata = {"resourceVersion": str(self.version)} | ({"continue": str(start + limit)} if start + limit < len(items) else {})
        return web.json_response({"metadata": metadata, "items": items[start : start + limit]})

    async def watch(self, request: web.Request) -> web.StreamResponse:
        since = int(request.query["resourceVersion"])
        response = web.StreamResponse()
        await response.prepare(request)
        assert isinstance(request.transport, asyncio.Transport)
        self.transports.add(request.transport)
        self.watching.release()
        if since < self.oldest:
            status = {"code": 410, "reason": "Expired", "message": "too old resource version"}
            await response.write(json.dumps({"type": "ERROR", "object": status}).encode() + b"\n")
            return response
        while not self.closing:
            for version, kind, found in self.history:
                if version > since:
                    since = version
                    line = json.dumps({"type": kind, "object": found}).encode() + b"\n"
                    await response.write(line[:10])  # lines come in pieces
                    await response.write(line[10:])
            async with self.changed:
                while self.version <= since and not self.closing:
                    await self.changed.wait()
        return response

    async def close(self) -> None:
        """Ends all watches."""
        self.closing = True
        async with self.changed:
            self.changed.notify_all()

    @staticmethod
    def failure(status: int, reason: str, **headers: str) -> web.Response:
        """Answers as the API server does, with a Status object."""
        body = {"kind": "Status", "code": status, "reason": reason, "message": f"{reason} it is"}
        return web.json_response(body, status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    fake = FakeApi()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", fake.handle)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    fake.port = runner.addresses[0][1]
    yield fake
    await fake.close()
    await runner.cleanup()


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[KubeClient]:
    tokens = iter(["Bearer good"])
    credentials = Credentials(f"http://127.0.0.1:{api.port}", None, lambda: next(tokens, "Bearer good"))
    async with KubeClient(credentials, request_seconds=5) as connected:
        yield connected
