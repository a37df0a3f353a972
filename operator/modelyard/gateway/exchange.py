"""One request and its answer: whatever writes to a client writes through here, so that framing is decided in one place.

An answer is started once: by the upstream's head, by a keepalive that had to come first, or by an error. What arrives from the
upstream is gathered during one turn of the event loop and leaves in one write.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelyard.api.errors import ApiError
from modelyard.api.names import authority
from modelyard.gateway import streams, wire

if TYPE_CHECKING:
    from modelyard.gateway.downstream import Downstream
    from modelyard.gateway.metrics import ModelStats
    from modelyard.gateway.streams import Stream
    from modelyard.gateway.types import Endpoint, ModelRecord
    from modelyard.gateway.upstream import UpstreamConnection

_NEVER = float("inf")


@dataclass(slots=True)
class Request:
    """A request as the client sent it. ``lines`` are the header lines that go on, each with CR LF; ``error`` is why it cannot be served."""

    method: bytes
    target: bytes
    lines: bytes
    body: bytes
    id: bytes
    received_at: float
    http10: bool = False
    close: bool = False
    error: ApiError | None = None


class Exchange:
    """A request and the state of its answer. Times are in seconds, on the monotonic clock.

    ``streaming`` is what the body says of streams, or None when it says nothing; ``pieces`` of the answer's body leave at the next `flush`.
    """

    __slots__ = (
        "_chunked", "_downstream", "_early", "_head", "_stream", "_tail", "bytes_sent", "close", "deadline", "endpoint", "error",
        "first_byte_at", "held_seconds", "interruption", "pieces", "record", "relayed", "request", "started", "stats", "status",
        "streaming",
    )  # fmt: skip

    def __init__(self, request: Request, downstream: Downstream):
        self.request = request
        self.started = False
        self.relayed = False
        self.streaming: bool | None = None
        self.close = request.close
        self.status = 0
        self.bytes_sent = 0
        self.first_byte_at = 0.0
        self.held_seconds = 0.0
        self.deadline = _NEVER
        self.error: ApiError | None = None
        self.interruption: ApiError | None = None
        self.record: ModelRecord | None = None
        self.stats: ModelStats | None = None
        self.endpoint: Endpoint | None = None
        self._downstream = downstream
        self._head = b""
        self.pieces: list[bytes] = []
        self._tail = b""
        self._chunked = False
        self._stream: Stream | None = None
        self._early = False

    @property
    def wanted_stream(self) -> Stream | None:
        """The kind of stream that the client waits for, in which it can be kept alive; None when it waits for a whole answer."""
        return streams.asked_for(self.request.target, self.streaming)

    # Written by the upstream's leg.

    def relay(self, status: int, lines: list[bytes], length: int | None, stream: Stream | None) -> bool:
        """Begins to pass an upstream's answer on, after which no other replica can be tried. ``lines`` are its header's, or pieces of them.

        Returns False for an answer that has to be kept whole, to be judged first.
        """
        if status == 503 or (self._early and (status != 200 or stream is not self._stream)):
            return False
        self.relayed = True
        if not self._early:
            self._open(status, lines, length, stream)
        return True

    def flush(self, ended: bool = False) -> None:
        """Sends what was gathered; with ``ended`` the answer is complete."""
        data = self.pieces[0] if len(self.pieces) == 1 else b"".join(self.pieces)
        if data:
            self.bytes_sent += len(data)
            self._tail = data
            self.pieces = []
            if self._chunked:
                data = wire.chunk(data)
        if ended and self._chunked:
            data += wire.LAST_CHUNK
        if self._head:
            data, self._head = self._head + data, b""
        if data:
            self._downstream.write(data)

    def reads_from(self, source: UpstreamConnection | None) -> None:
        """Names the connection to slow down while the client does not read."""
        self._downstream.slow_down(source)

    # Written by the gateway itself.

    def keepalive(self) -> None:
        """Sends what means nothing to a streaming client that waits; the first time opens the answer."""
        stream = self.wanted_stream
        assert stream is not None, "whole answers are not begun before they are known"
        if not self._early:
            self._open(200, [stream.lines], None, stream)
            self._early = True
        self.pieces.append(stream.keepalive)
        self.flush()

    def replay(self, answer: wire.Answer) -> None:
        """Sends a whole answer; a client that was kept alive gets it as an event."""
        if self._early and self._stream is not None:
            self.pieces.append(self._stream.event(answer.body))
        else:
            head_only = self.request.method == b"HEAD"
            self._open(answer.status, [answer.lines], len(answer.body), None)
            self.pieces.append(b"" if head_only else answer.body)
        self.flush(ended=True)

    def fail(self, error: ApiError) -> None:
        """Ends the answer with an error, visibly: as the answer, as an event, or by cutting the connection short of the end."""
        self.error = error
        if not self.started or (self._early and not self.relayed):
            self.replay(wire.error_answer(error, streams.error_body(error, self.request.target)))
            return
        self.close = True
        if self._stream is not None and self._chunked:
            self.pieces.append(self._stream.event(streams.error_body(error, self.request.target), self._tail))
            self.flush()

    def _open(self, status: int, lines: list[bytes], length: int | None, stream: Stream | None) -> None:
        """Begins the answer; ``length`` is the body's in bytes, or None when only its end will tell."""
        self.started = True
        self.status = status
        self.first_byte_at = self._downstream.now()
        self._stream = stream
        if length is not None:
            framing = b"content-length: %d\r\n" % length
        elif self.request.http10:
            framing, self.close = b"", True
        else:
            framing, self._chunked = wire.CHUNKED, True
        head = [wire.status_line(status), *lines, framing, b"x-request-id: ", self.request.id, b"\r\n"]
        service = self._downstream.service
        if service.draining:
            self.close = True
        if self.close:
            head.append(wire.CLOSE)
        if self.endpoint is not None and service.settings.debug_headers:
            head.append(f"x-modelyard-endpoint: {authority(*self.endpoint)}\r\n".encode())
        head.append(b"\r\n")
        self._head = b"".join(head)
