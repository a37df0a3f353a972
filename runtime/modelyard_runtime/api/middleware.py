"""What happens around every request, in pure ASGI so that a client's leaving is seen and passed on.

AccessLog      request id, one log line, and an OpenAI-shaped answer for whatever went wrong
└── Bounds     the whole body within its size and time; the work within its time, and ended when the client leaves
    └── Leases     the model stays in memory until its answer has ended
        └── FastAPI
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson
from modelyard.api.errors import ApiError, PayloadTooLarge, RequestTimeout, Timeout, Unavailable
from modelyard.api.names import REQUEST_ID_HEADER
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelyard_runtime import logs
from modelyard_runtime.api import sse
from modelyard_runtime.api.errors import error_body, error_headers, to_api_error
from modelyard_runtime.api.ollama import lines
from modelyard_runtime.leases import leasing
from modelyard_runtime.observation import Ended, Observation, current
from modelyard_runtime.room import Room, Share

logger = logging.getLogger(__name__)

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LAST_WORD_SECONDS = 2.0
_ENDING = Unavailable("This server ended before it was done with the request. Send it again.", code="draining", retry_after=1)
_QUIET = frozenset({"/health", "/ready", "/metrics", "/progress"})
# How an error is said in a stream that has begun, by the stream's type.
_EVENTS: dict[bytes | None, Callable[[Any], bytes]] = {sse.CONTENT_TYPE: sse.event, lines.CONTENT_TYPE: lines.line}


class ClientLeft(Exception):
    """The client closed the connection before its answer was complete."""


class Exchange:
    """What has been sent of a response, and the headers that every response gets."""

    def __init__(self, send: Send, request_id: bytes, path: str, *, closing: bool):
        self.status = 0
        self.complete = False
        self._send = send
        self._path = path
        self._event: Callable[[Any], bytes] | None = None
        self._headers = [(REQUEST_ID_HEADER.encode(), request_id)] + ([(b"connection", b"close")] if closing else [])

    async def send(self, message: Message) -> None:
        """Passes a message on."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._event = _EVENTS.get(dict(message["headers"]).get(b"content-type"))
            message["headers"] = [*message["headers"], *self._headers]
        else:
            self.complete = not message.get("more_body", False)
        await self._send(message)

    async def fail(self, error: ApiError) -> None:
        """Says what went wrong, as the answer or as the last event of a stream that has begun; to a client that reads, that is."""
        try:
            async with asyncio.timeout(_LAST_WORD_SECONDS):
                await self._fail(error)
        except TimeoutError:
            logger.debug("the client did not read the error", extra={"error": error.message})

    async def _fail(self, error: ApiError) -> None:
        if self.complete:
            return
        said = error_body(error, self._path)
        if not self.status:
            body = orjson.dumps(said)
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
            headers += [(name.encode(), value.encode()) for name, value in error_headers(error, self._path).items()]
            if isinstance(error, PayloadTooLarge | RequestTimeout):
                headers.append((b"connection", b"close"))
            await self.send({"type": "http.response.start", "status": error.status, "headers": headers})
            await self.send({"type": "http.response.body", "body": body})
        elif self._event is not None:
            await self.send({"type": "http.response.body", "body": self._event(said)})


class AccessLog:
    """Gives a request its id, logs its end, and answers what nothing else caught. ``watchers`` are told of the end too.

    ``routes`` are the application's, by which requests are known that ended before they came to it.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        closing: Callable[[], bool],
        watchers: Sequence[Callable[[Ended], None]] = (),
        routes: Sequence[BaseRoute] = (),
    ):
        self._app = app
        self._routes = routes
        self._closing = closing
        self._watchers = (_log, *watchers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id.decode()
        token = logs.request_id.set(request_id.decode())
        observation = Observation(request_id.decode())
        current.set(observation)
        exchange = Exchange(send, request_id, scope["path"], closing=self._closing())
        began, started = time.time_ns(), time.monotonic()
        try:
            await self._app(scope, receive, exchange.send)
        except ClientLeft:
            exchange.status = 499
        except asyncio.CancelledError:  # the server ends, and waits no longer; nobody else ends this task
            with suppress(asyncio.CancelledError):  # nor for a client that does not read that
                await exchange.fail(_ENDING)
        except Exception as error:  # noqa: BLE001 - the outermost frame: the client gets an answer, the log the trace
            await exchange.fail(to_api_error(error))
        finally:
            if "route" not in scope:
                scope["route"] = self._route(scope)
            ended = Ended(scope, exchange.status, began, time.monotonic() - started, observation)
            for watcher in self._watchers:
                watcher(ended)
            logs.request_id.reset(token)

    def _route(self, scope: Scope) -> BaseRoute | None:
        """Returns the route that would have served a request."""
        return next((route for route in self._routes if route.matches(scope)[0] is not Match.NONE), None)


class Bounds:
    """Reads the body before the application runs, and ends the application when its time is over or the client is gone."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        max_body_bytes: int,
        max_buffered_bytes: int,
        body_timeout: float,
        request_timeout: float,
        larger: Mapping[str, int] | None = None,
    ):
        """``larger`` are the bounds of paths that take files."""
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._larger = larger or {}
        self._room = Room(max(max_buffered_bytes, max_body_bytes, *self._larger.values()))
        self._body_timeout = body_timeout
        self._request_timeout = request_timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request. Raises ClientLeft, PayloadTooLarge, RequestTimeout, Timeout or Unavailable."""
        share = Share(self._room)
        try:
            await self._serve(scope, receive, send, share)
        finally:
            share.give_back()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, share: Share) -> None:
        body = await self._body(scope, receive, share)
        gone = asyncio.create_task(_departure(receive))
        work: asyncio.Task[None] = asyncio.create_task(self._run(scope, _replay(body, gone), send))
        try:
            await asyncio.wait({gone, work}, timeout=self._request_timeout, return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                return work.result()
            left = gone.done()
        finally:
            await _end(work, gone)
        if left:
            raise ClientLeft
        raise Timeout(f"The request took longer than {self._request_timeout:g} s, which is the limit. Ask for fewer tokens.")

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)

    async def _body(self, scope: Scope, receive: Receive, share: Share) -> bytes:
        headers = dict(scope["headers"])
        declared = int(headers.get(b"content-length", b"0"))
        limit = self._larger.get(scope["path"], self._max_body_bytes)
        if declared > limit and b"expect" in headers:
            raise _too_large(limit)
        try:
            async with asyncio.timeout(self._body_timeout):
                return await self._read(receive, limit, share)
        except TimeoutError:
            if declared > limit:
                raise _too_large(limit) from None
            raise RequestTimeout(f"The body did not arrive within {self._body_timeout:g} s. Send it faster, or less of it.") from None

    async def _read(self, receive: Receive, limit: int, share: Share) -> bytes:
        """Reads to the end even past the bounds, dropping what is too much: a client that still sends would not see the answer."""
        chunks: list[bytes] = []
        size, more, kept = 0, True, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientLeft
            chunk = message.get("body", b"")
            size += len(chunk)
            more = message.get("more_body", False)
            kept = kept and size <= limit and share.take(len(chunk))
            if kept:
                chunks.append(chunk)
            else:
                chunks.clear()
                share.give_back()
        if size > limit:
            raise _too_large(limit)
        if not kept:
            raise Unavailable(
                "This server holds as many bodies in memory as it may. Send the request again.", code="overloaded", retry_after=1
            )
        return b"".join(chunks)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"The request body is larger than {limit} bytes, which is the limit. Send less at once.")


class Heads:
    """Answers HEAD wherever GET is answered: alike, for the server leaves the body out."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        await self._app({**scope, "method": "GET"} if scope["method"] == "HEAD" else scope, receive, send)


class Leases:
    """Releases what a request has leased when its answer has ended, however it ends."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        with leasing():
            await self._app(scope, receive, send)


def _request_id(scope: Scope) -> bytes:
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER.encode()), b"")
    return given if _REQUEST_ID.fullmatch(given) else logs.new_request_id().encode()


def _log(ended: Ended) -> None:
    scope = ended.scope
    level = logging.DEBUG if scope["path"] in _QUIET else logging.INFO
    line = {"method": scope["method"], "path": scope["path"][:200], "status": ended.status, "seconds": round(ended.seconds, 4)}
    logger.log(level, "request", extra=line | ended.observation.fields())


def _replay(body: bytes, gone: asyncio.Task[None]) -> Receive:
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        message = next(messages, None)
        if message is None:
            await asyncio.wait({gone})
        return message or {"type": "http.disconnect"}

    return receive


async def _departure(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _end(*tasks: asyncio.Task[None]) -> None:
    """Cancels what still runs and waits until it has let go of what it held."""
    running = [task for task in tasks if not task.done()]
    for task in running:
        task.cancel()
    if running:
        await asyncio.wait(running)
