"""A client of the API server: JSON over pooled connections, watches as async iterators, failures as one exception.

Paths come from `Resource.path` or `modelyard.kube.apply.resource_path`; objects are plain dictionaries, parsed by orjson.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple, Self

import aiohttp
import orjson
from prometheus_client import Counter

from modelyard.kube import credentials as auth
from modelyard.kube.failures import ApiFailure, Unreachable, failure_of

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

Object = dict[str, Any]
Objects = list[Object]
Params = Mapping[str, str | int]

PAGE = 500
MAX_BODY = 64 * 2**20  # a page of 500 objects of 100 kB each still fits
MAX_LINE = 8 * 2**20  # etcd refuses objects above 1.5 MiB
_IDLE_WATCH_SECONDS = 120.0  # bookmarks come each minute
_THROTTLE_TRIES = 5
_THROTTLE_LONGEST = 10.0

_CALLS = Counter("modelyard_kube_api_requests_total", "Requests to the API server", ["method", "code"])

__all__ = ["APPLY_PATCH", "JSON", "MERGE_PATCH", "ApiFailure", "KubeClient", "Object", "Resource", "Unreachable", "WatchEvent"]


class Resource(NamedTuple):
    """A kind of object as paths name it, such as ``Resource("apps/v1", "deployments")``."""

    api_version: str
    plural: str

    def path(self, namespace: str | None = None, name: str | None = None) -> str:
        """Returns the path of the collection (of all namespaces when ``namespace`` is None or empty) or of one object."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        scope = f"/namespaces/{namespace}" if namespace else ""
        return f"{root}{scope}/{self.plural}" + (f"/{name}" if name else "")


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Object


class KubeClient:
    """Talks to one API server. Use as an async context manager, or call `close`.

    ``calls`` counts the requests sent, watches included. All methods raise `ApiFailure` (`Unreachable` when no answer came).
    """

    def __init__(self, credentials: auth.Credentials, *, connections: int = 48, request_seconds: float = 30.0):
        """``connections`` bounds those open at once, beside watches."""
        self._credentials = credentials
        self._timeout = aiohttp.ClientTimeout(total=request_seconds)
        self._session = self._open(connections)
        self._watches = self._open(0)  # long-lived, one per informer: they must not starve requests
        self.calls = 0

    @classmethod
    async def connect(cls, *, connections: int = 48, request_seconds: float = 30.0) -> Self:
        """Returns a client for the pod's service account or the kubeconfig's current context; raises `credentials.NoCluster`."""
        return cls(await asyncio.to_thread(auth.find), connections=connections, request_seconds=request_seconds)

    async def close(self) -> None:
        """Closes all connections; running watches end."""
        await self._session.close()
        await self._watches.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def get(self, path: str, *, params: Params | None = None) -> Object:
        """Returns one object (or whatever JSON object lies at ``path``)."""
        return await self.request("GET", path, params=params)

    async def create(self, path: str, body: Object, *, params: Params | None = None) -> Object:
        """Creates an object in the collection at ``path`` and returns it as stored."""
        return await self.request("POST", path, params=params, body=body)

    async def replace(self, path: str, body: Object) -> Object:
        """Replaces an object; a conflict (409) is raised when ``metadata.resourceVersion`` is not the stored one."""
        return await self.request("PUT", path, body=body)

    async def patch(self, path: str, body: Object, *, content_type: str = MERGE_PATCH, params: Params | None = None) -> Object:
        """Patches an object and returns it as stored."""
        return await self.request("PATCH", path, params=params, body=body, content_type=content_type)

    async def delete(self, path: str, *, options: Object | None = None) -> Object:
        """Deletes an object; ``options`` are the DeleteOptions (preconditions, propagation)."""
        return await self.request("DELETE", path, body=options)

    async def pages(self, path: str, *, label_selector: str | None = None, limit: int = PAGE) -> AsyncIterator[Object]:
        """Yields a collection page by page (whole List objects); 410 is raised when the snapshot expired in between."""
        params: dict[str, str | int] = {"limit": limit} | ({"labelSelector": label_selector} if label_selector else {})
        while True:
            page = await self.request("GET", path, params=params)
            yield page
            following = page.get("metadata", {}).get("continue")
            if not following:
                return
            params["continue"] = following

    async def list(self, path: str, *, label_selector: str | None = None) -> Objects:
        """Returns all objects of a collection; for big or lasting needs use an `Informer`."""
        return [item async for page in self.pages(path, label_selector=label_selector) for item in page.get("items") or []]

    async def request(
        self, method: str, path: str, *, params: Params | None = None, body: Object | None = None, content_type: str = JSON
    ) -> Object:
        """Sends one request and returns the JSON object answered.

        Where the API server asks for patience (429 or 503 with Retry-After) the request is sent again, five times at most; with a
        refused token (401) it is sent once more with the token read anew.
        """
        data = None if body is None else orjson.dumps(body)
        for attempt in range(_THROTTLE_TRIES):
            try:
                return await self._once(method, path, params, data, content_type, fresh=False)
            except ApiFailure as failure:
                if failure.status == 401:
                    break
                if failure.retry_after is None or attempt == _THROTTLE_TRIES - 1:
                    raise
                await asyncio.sleep(min(failure.retry_after, _THROTTLE_LONGEST))
        return await self._once(method, path, params, data, content_type, fresh=True)

    async def watch(
        self, path: str, *, resource_version: str, label_selector: str | None = None, timeout_seconds: int = 300
    ) -> AsyncIterator[WatchEvent]:
        """Yields changes after ``resource_version``, bookmarks included, until the server ends the watch.

        Raises `ApiFailure` with status 410 when the version is too old, and `Unreachable` when the connection breaks or stays
        silent for two minutes.
        """
        params: dict[str, str | int] = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": timeout_seconds,
        }
        if label_selector:
            params["labelSelector"] = label_selector
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10.0, sock_read=_IDLE_WATCH_SECONDS)
        self.calls += 1
        try:
            async with self._watches.get(
                self._credentials.server + path, params=params, headers=await self._credentials.headers(), timeout=timeout, **self._proxy()
            ) as response:
                _CALLS.labels("WATCH", response.status).inc()
                if response.status != 200:
                    if response.status == 401:
                        await self._credentials.headers(force=True)
                    raise failure_of(response.status, response.headers, await _body(response))
                async for line in _lines(response.content):
                    yield _event(line)
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            raise Unreachable(self._credentials.server, problem) from problem

    async def _once(self, method: str, path: str, params: Params | None, data: bytes | None, content_type: str, *, fresh: bool) -> Object:
        headers = {"content-type": content_type, "accept": JSON, **await self._credentials.headers(force=fresh)}
        self.calls += 1
        try:
            async with self._session.request(
                method, self._credentials.server + path, params=params, data=data, headers=headers, timeout=self._timeout, **self._proxy()
            ) as response:
                _CALLS.labels(method, response.status).inc()
                content = await _body(response)
        except (aiohttp.ClientError, OSError, TimeoutError) as problem:
            _CALLS.labels(method, "none").inc()
            raise Unreachable(self._credentials.server, problem) from problem
        if response.status >= 400:
            raise failure_of(response.status, response.headers, content)
        return _parse(content)

    def _proxy(self) -> dict[str, Any]:
        return {"proxy": self._credentials.proxy} if self._credentials.proxy else {}

    def _open(self, connections: int) -> aiohttp.ClientSession:
        tls = self._credentials.tls
        connector = aiohttp.TCPConnector(limit=connections, ssl=True if tls is None else tls, socket_factory=_socket)
        return aiohttp.ClientSession(connector=connector, headers={"user-agent": "modelyard"})


def _socket(address: tuple[Any, ...]) -> socket.socket:
    """Returns a socket that notices within 30 s that its peer's machine is gone, where no packet says so."""
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):  # not on every system
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
    return opened


async def _body(response: aiohttp.ClientResponse) -> bytes:
    """Reads a response within MAX_BODY."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > MAX_BODY:
            raise aiohttp.ClientPayloadError(f"the answer is longer than {MAX_BODY} bytes")
        parts.append(chunk)
    return b"".join(parts)


async def _lines(stream: aiohttp.StreamReader) -> AsyncIterator[bytes]:
    """Yields the lines of a watch. A line may be longer than the reader's buffer, yet not than MAX_LINE."""
    rest = b""
    async for chunk in stream.iter_any():
        *whole, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE:
            raise aiohttp.ClientPayloadError(f"a watch event is longer than {MAX_LINE} bytes")
        for line in whole:
            if line:
                yield line


def _parse(content: bytes) -> Object:
    try:
        parsed = orjson.loads(content or b"{}")
    except orjson.JSONDecodeError as problem:
        raise ApiFailure(502, "BadAnswer", f"the API server's answer is not JSON: {problem}") from problem
    return parsed if isinstance(parsed, dict) else {"value": parsed}


def _event(line: bytes) -> WatchEvent:
    """Parses a line; an ERROR event is raised as the failure it carries."""
    raw = _parse(line)
    if raw.get("type") == "ERROR":
        raise failure_of(raw["object"].get("code", 500), {}, orjson.dumps(raw["object"]))
    return WatchEvent(raw["type"], raw["object"])
