"""The leg to the replicas: connections that carry one request at a time, and the pool that keeps them for the next.

A replica may close an idle connection just as it is taken for a request. Such a request is sent again at once on a fresh connection:
the replica has not seen it. Everything else that fails is told to the caller, who knows about other replicas.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import monotonic
from typing import Any

import httptools
import orjson

from modelyard.api.names import ERROR_CODE_HEADER, authority
from modelyard.gateway import streams, wire
from modelyard.gateway.errors import ConnectFailed, ConnectionLost, Draining, InvalidAnswer, UpstreamFailed
from modelyard.gateway.exchange import Exchange
from modelyard.gateway.streams import Stream
from modelyard.gateway.types import Endpoint

_MAX_HEAD = 64 * 1024
_MAX_KEPT = 256 * 1024
_JOINED = 64 * 1024
_DRAINING = f"{ERROR_CODE_HEADER}: draining\r\n".encode()


class UpstreamConnection(asyncio.Protocol):
    """A connection to a replica. Between requests it has no exchange, and anything that arrives then ends it."""

    __slots__ = (
        "_chunked", "_done", "_exchange", "_kept", "_length", "_lines", "_loop", "_parser", "_read", "_status", "_stream", "_transport",
        "closed", "idle_since", "reusable",
    )  # fmt: skip

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpResponseParser(self)
        self._transport: Any = None
        self.closed = False
        self.idle_since = 0.0
        self._reset()

    def _reset(self) -> None:
        self.reusable = False
        self._exchange: Exchange | None = None
        self._done: asyncio.Future[wire.Answer | None] | None = None
        self._lines: list[bytes] = []
        self._length: int | None = None
        self._chunked = False
        self._stream: Stream | None = None
        self._status = 0
        self._read = 0
        self._kept: bytearray | None = None

    def send(self, head: bytes, body: bytes, exchange: Exchange) -> asyncio.Future[wire.Answer | None]:
        """Sends a request, and passes the answer on or returns it, when it has to be judged first. The future may raise UpstreamFailed.

        `end` comes next in any case.
        """
        self.reusable = False
        self._exchange = exchange
        self._done = done = self._loop.create_future()
        if len(body) <= _JOINED:
            self._transport.write(head + body)
        else:
            self._transport.writelines((head, body))
        exchange.reads_from(self)
        return done

    def end(self, exchange: Exchange) -> None:
        """Ends a request, which leaves the connection ready for the next one or closed."""
        exchange.reads_from(None)
        if self.reusable:
            self._reset()
        else:
            self.abort()

    @property
    def answered(self) -> bool:
        """Whether any byte of an answer has come."""
        return self._read > 0

    def abort(self) -> None:
        """Ends the connection at once; the replica sees that nobody waits any more."""
        self.closed = True
        if self._transport is not None:
            self._transport.abort()

    def pause_reading(self) -> None:
        """Stops reading, because the client does not."""
        if not self.closed:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        if not self.closed:
            self._transport.resume_reading()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parses a part of the answer and passes it on in one write."""
        exchange = self._exchange
        if exchange is None:
            self.abort()
            return
        self._read += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(InvalidAnswer(f"the replica's answer is not valid HTTP: {error}"))
            return
        if not self._status and self._read > _MAX_HEAD:
            self._fail(InvalidAnswer(f"the head of the replica's answer passes {_MAX_HEAD} bytes"))
        elif self._exchange is not None and self._kept is None:
            exchange.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the exchange: well, when the end of the connection is what ends the body, else by ConnectionLost."""
        self.closed = True
        if self._exchange is None:
            return
        if exc is None and self._status and self._length is None and not self._chunked:
            self.on_message_complete()
        else:
            self._fail(ConnectionLost("the replica closed the connection before its answer was complete"))

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a header line, or what it means for this hop."""
        if self._status:
            return  # A trailer: the head is out.
        lowered = name.lower()
        if lowered == b"content-type":
            self._stream = streams.of_type(value)
        elif lowered in wire.ANSWER_ENDS_HERE:
            if lowered == b"content-length":
                self._length = int(value)
            elif lowered == b"transfer-encoding":
                self._chunked = True
            return
        self._lines += name, b": ", value, b"\r\n"

    def on_headers_complete(self) -> None:
        """Opens the client's answer, or begins to keep this one."""
        status = self._parser.get_status_code()
        if status < 100:  # nothing that a client could be told
            self._fail(InvalidAnswer(f"the replica's answer has the status {status:03}"))
            return
        if status < 200:
            self._lines = []
            return
        self._status = status
        exchange = self._exchange
        assert exchange is not None
        length = 0 if status in (204, 304) else None if self._chunked else self._length
        if not exchange.relay(status, self._lines, length, self._stream):
            self._kept = bytearray()

    def on_body(self, data: bytes) -> None:
        """Passes a piece of the body on, or keeps it; one behind an answer that failed is dropped."""
        if self._kept is None:
            if self._exchange is not None:
                self._exchange.pieces.append(data)
        else:
            self._kept += data
            if len(self._kept) > _MAX_KEPT:
                self._fail(InvalidAnswer(f"the replica's {self._status} answer passes {_MAX_KEPT} bytes"))

    def on_message_complete(self) -> None:
        """Ends the exchange."""
        done = self._done
        if not self._status or done is None or done.done():
            return
        answer = None
        if self._kept is None:
            assert self._exchange is not None
            self._exchange.flush(ended=True)
            self._exchange = None
        else:
            answer = wire.Answer(self._status, b"".join(self._lines), bytes(self._kept))
        self.reusable = not self.closed and self._parser.should_keep_alive() and not self._transport.get_write_buffer_size()
        done.set_result(answer)

    def _fail(self, failure: UpstreamFailed) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(failure)
        self._exchange = None


class Pool:
    """Connections to one replica. The one used last is taken first, so that the others grow old and are dropped."""

    __slots__ = ("_connect_timeout", "_idle", "_lines", "endpoint", "open")

    def __init__(self, endpoint: Endpoint, model: bytes, connect_timeout: float):
        self.endpoint = endpoint
        self.open = True
        self._lines = b" HTTP/1.1\r\nhost: %b\r\nx-modelyard-model: %b\r\ncontent-length: " % (authority(*endpoint).encode(), model)
        self._connect_timeout = connect_timeout
        self._idle: deque[UpstreamConnection] = deque()

    @property
    def idle(self) -> int:
        """Connections that wait for a request."""
        return len(self._idle)

    async def send(self, exchange: Exchange) -> None:
        """Passes a request on and its answer back; raises UpstreamFailed, after which `exchange.relayed` says what is left to do."""
        request = exchange.request
        head = b"%b %b%b%d\r\nx-request-id: %b\r\n%b\r\n" % (
            request.method, request.target, self._lines, len(request.body), request.id, request.lines,
        )  # fmt: skip
        connection, fresh = self._take(), False
        while True:
            if connection is None:
                connection, fresh = await self._connect(), True
            try:
                answer = await connection.send(head, request.body, exchange)
                break
            except ConnectionLost:
                if fresh or connection.answered:
                    raise
            finally:
                connection.end(exchange)
                self._keep(connection)
            connection = None
        if answer is not None:
            self._judge(answer, exchange)

    def drop_idle(self, before: float) -> None:
        """Closes the connections that have been idle since before a time on the monotonic clock."""
        while self._idle and self._idle[0].idle_since < before:
            self._idle.popleft().abort()

    def shut(self) -> None:
        """Closes the idle connections and keeps no more; those in use go on to the end of their answers."""
        self.open = False
        self.drop_idle(float("inf"))

    def _take(self) -> UpstreamConnection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.closed:
                return connection
        return None

    def _keep(self, connection: UpstreamConnection) -> None:
        if connection.closed:
            return
        if self.open:
            connection.idle_since = monotonic()
            self._idle.append(connection)
        else:
            connection.abort()

    async def _connect(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(0)  # A timeout needs a task, which a request has from its first wait on.
        try:
            async with asyncio.timeout(self._connect_timeout):
                _, connection = await loop.create_connection(UpstreamConnection, self.endpoint.host, self.endpoint.port)
                return connection
        except TimeoutError:
            raise ConnectFailed(f"no connection within {self._connect_timeout:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"no connection: {error}") from None

    @staticmethod
    def _judge(answer: wire.Answer, exchange: Exchange) -> None:
        if answer.status == 503 and _is_draining(answer):
            raise Draining(answer)
        exchange.replay(answer)


def _is_draining(answer: wire.Answer) -> bool:
    if _DRAINING in answer.lines:
        return True
    try:
        return bool(orjson.loads(answer.body)["error"]["code"] == "draining")
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return False
