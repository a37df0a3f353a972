"""uvicorn's HTTP protocol with bounds on what comes before a request's body, and errors in OpenAI's shape."""

from __future__ import annotations

import asyncio
import json
import logging
import math
import time
from collections.abc import Mapping, Sized
from types import MappingProxyType
from typing import Any

import httptools
from modelyard.api.errors import ApiError, Unavailable
from modelyard.api.names import REQUEST_ID_HEADER
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelyard_runtime.api.errors import error_body, error_headers
from modelyard_runtime.logs import new_request_id

logger = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 64 << 10
_HEAD_SECONDS = 30.0
_LINGER_SECONDS = 1.0
_TOLD_SECONDS = 60.0
_PHRASES = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large", 503: b"Service Unavailable"}
_CROWDED = Unavailable("This server has as many connections as it may. Send the request again.", code="overloaded", retry_after=1)


class Doors:
    """How many connections a port takes.

    On those beyond ``most``, one request for a ``spared`` path is answered and others get 503; those beyond twice as many are closed.
    """

    def __init__(self, most: int, spared: frozenset[bytes]):
        self._most = most
        self._told = -math.inf
        self.spared = spared

    def crowded(self, connections: int) -> bool:
        """Whether the last of so many is too much. It is told, once a minute at most."""
        crowded = connections > self._most
        if crowded and time.monotonic() - self._told > _TOLD_SECONDS:
            self._told = time.monotonic()
            logger.warning("there are as many connections as there may be, and further ones are refused", extra={"most": self._most})
        return crowded

    def full(self, connections: int) -> bool:
        """Whether there are so many that refusing the last is too much work."""
        return connections > 2 * self._most


class _Flow(FlowControl):
    """Reads no further while requests wait behind another one: a client that sends ahead would fill the memory with them."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized):
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Reads on, when nothing waits."""
        if not self._pipeline:
            super().resume_reading()


class _Parser:
    """httptools' parser of requests, which ``protocol`` is told of as if none had asked for another protocol (RFC 9110 §7.8).

    Java's own client asks for HTTP/2 with each first one. The parser takes what follows the head for that protocol, so that the head is
    put before it again without the wish.
    """

    def __init__(self, protocol: BoundedProtocol):
        self._protocol = protocol
        self._begin()

    def feed_data(self, data: bytes) -> None:
        """Parses. Raises httptools.HttpParserError."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self._parser.get_method() == b"CONNECT":
                raise httptools.HttpParserError("this is no proxy") from None
            head = self._protocol.head_without_upgrade()
            self._begin()
            self.feed_data(head + data[upgrade.args[0] :])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self._protocol)
        # As uvicorn has it: what comes behind a request that closes the connection is not read, and is no fault of that request.
        self._parser.set_dangerous_leniencies(lenient_data_after_close=True)


class BoundedProtocol(HttpToolsProtocol):
    """Ends connections whose request line and headers are too long, take too long, or are no HTTP, and those that nobody reads from.

    ``stall_timeout`` are the seconds for which a client may take nothing of an answer that waits for it; ``doors`` bound their number.
    """

    _crowded = False
    _head_bytes = 0
    _in_head = True
    _refused = False
    _head_timer: asyncio.TimerHandle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    #: What is being answered; uvicorn's own ``cycle`` is what came last, which may wait behind it.
    _serving: RequestResponseCycle | None = None

    def __init__(self, *args: Any, stall_timeout: float, doors: Doors, **options: Any):
        super().__init__(*args, **options)
        self._stall_timeout = stall_timeout
        self._doors = doors
        self.parser = _Parser(self)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client connected: its first request's head is due."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        self._expect_head()
        self._crowded = self._doors.crowded(len(self.connections))
        if self._doors.full(len(self.connections)):
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection ended: the request that is served learns of it, those behind it are never begun."""
        self._stop_timer()
        self._stop_watching()
        self.pipeline.clear()
        if self._serving is not None and not self._serving.response_complete:
            self._serving.disconnected = True
            self._serving.message_event.set()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """The client reads more slowly than the answer comes."""
        super().pause_writing()
        self._watch(None)

    def resume_writing(self) -> None:
        """It has caught up."""
        self._stop_watching()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """An answer is complete; what of it waits for the client is looked after, for the connection stays until that is gone."""
        super().on_response_complete()
        if self._stall_timer is None and self.transport.get_write_buffer_size():
            self._watch(None)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if self._refused:
            return
        if self._in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        # Bytes of a body that came along with its head are not counted: the head was over by then.
        if self._in_head and self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(431, f"The request line and headers are larger than {_MAX_HEAD_BYTES} bytes. Send fewer headers.")

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        self._expect_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header. What follows a body is a trailer, which must not pass for one and is not kept: there may be any number of them."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is complete; the middleware bounds what follows. One that is to be read again is not served yet."""
        self._in_head = False
        self._stop_timer()
        if self.parser.should_upgrade():
            return
        hosts = sum(name == b"host" for name, _ in self.headers)
        if hosts > 1 or (not hosts and self.parser.get_http_version() != "1.0"):
            self._refuse(400, "HTTP/1.1 wants the header Host in each request, once.")  # RFC 9112 §3.2
            raise httptools.HttpParserError("no one host")  # what follows is not read
        if self._crowded:
            self._check_spared()
        super().on_headers_complete()
        if self._crowded:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request is complete."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def head_without_upgrade(self) -> bytes:
        """Returns the request's head without its wish for another protocol."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"%b %b HTTP/%b\r\n%b\r\n" % (self.parser.get_method(), self.url, version, b"".join(lines))

    def send_400_response(self, msg: str) -> None:
        """What came is no HTTP."""
        self._refuse(400, f"{msg} Send HTTP/1.1.")

    def _check_spared(self) -> None:
        """Refuses a request on a connection that is too much, unless it must be answered even so: it is the connection's last."""
        path = httptools.parse_url(self.url).path
        if path not in self._doors.spared:
            self._end(_rendered(_CROWDED, path.decode("latin-1")))
            raise httptools.HttpParserError("too many connections")  # what follows is not read

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._serving = cycle
        super()._start_asgi_task(cycle, app)

    def _watch(self, before: int | None) -> None:
        """Looks again and again how much waits for the client, and ends the connection once it has taken nothing in between."""
        waiting = self.transport.get_write_buffer_size()
        self._stall_timer = None
        if before is not None and 0 < before <= waiting:
            logger.info("a client that read nothing was left", extra={"seconds": self._stall_timeout, "bytes": waiting})
            self.transport.abort()
        elif waiting:
            self._stall_timer = self.loop.call_later(self._stall_timeout, self._watch, waiting)

    def _stop_watching(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None

    def _expect_head(self) -> None:
        self._in_head = True
        self._head_bytes = 0
        self._stop_timer()
        self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _too_slow(self) -> None:
        if self.flow.read_paused:  # by us: what is missing may have come
            self._head_timer = self.loop.call_later(_HEAD_SECONDS, self._too_slow)
            return
        self._refuse(408, f"The request's headers did not arrive within {_HEAD_SECONDS:g} s.")

    def _refuse(self, status: int, message: str) -> None:
        """Ends the connection for what is no HTTP."""
        said = {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": "invalid_http"}}
        self._end(_answer(status, said))

    def _end(self, answer: bytes) -> None:
        """Answers and closes; only closes where another answer is under way or due on the connection."""
        self._stop_timer()
        if self.transport.is_closing() or self._refused:
            return
        between = self.cycle is None or self.cycle.response_complete
        if between or not (self.cycle.response_started or self.pipeline):
            self.transport.write(answer)
        if between:
            # What the client still sends is read and dropped for a moment: closing at once would reset the connection,
            # and the answer would be lost.
            self._refused = True
            self.transport.write_eof()
            self.loop.call_later(_LINGER_SECONDS, self.transport.close)
        else:
            self.transport.close()


def _rendered(error: ApiError, path: str) -> bytes:
    """Returns the whole answer for an error, as the clients of a path read it."""
    return _answer(error.status, error_body(error, path), error_headers(error, path))


def _answer(status: int, said: Any, headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    """Returns a whole answer, after which the connection ends."""
    body = json.dumps(said).encode()
    lines = {"content-type": "application/json", "content-length": len(body), REQUEST_ID_HEADER: new_request_id(), "connection": "close"}
    head = "".join(f"{name}: {value}\r\n" for name, value in {**lines, **headers}.items())
    return b"HTTP/1.1 %d %b\r\n%b\r\n" % (status, _PHRASES[status], head.encode()) + body
