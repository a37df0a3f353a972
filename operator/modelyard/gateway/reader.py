"""Requests out of bytes: strict, and bounded in size at every step.

httptools refuses what could be read in two ways (both framings at once, folded lines, bare line feeds, doubtful lengths); the checks here
are for what it lets through. A request that cannot be served is delivered too, with its error, so that answers keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httptools

from modelyard.api.errors import ApiError, InvalidRequest, PayloadTooLarge, RequestTimeout, Unavailable
from modelyard.gateway import wire
from modelyard.gateway.errors import HeadersTooLarge
from modelyard.gateway.exchange import Request
from modelyard.gateway.metrics import GatewayStats
from modelyard.gateway.request_id import request_id
from modelyard.gateway.settings import GatewaySettings

_NEVER = float("inf")
_SINGLE = frozenset((b"host", b"content-length", b"transfer-encoding", b"expect"))


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one request, in bytes and seconds."""

    head: int
    body: int
    buffered: int
    head_seconds: float
    body_seconds: float

    @classmethod
    def of(cls, settings: GatewaySettings) -> Limits:
        """Takes them from the settings."""
        return cls(
            settings.max_header_bytes,
            settings.max_body_bytes,
            settings.max_buffered_bytes,
            settings.header_timeout.total_seconds(),
            settings.body_timeout.total_seconds(),
        )


class RequestReader:
    """Parses one client connection. ``deadline``, on the monotonic clock, is when the request that is coming in must be complete."""

    __slots__ = (
        "_continue", "_deliver", "_double", "_ends_here", "_fed", "_http10", "_in_head", "_limits", "_lines", "_now", "_parser",
        "_pieces", "_size", "_stats", "_target", "deadline", "stopped",
    )  # fmt: skip

    def __init__(self, limits: Limits, stats: GatewayStats, deliver: Callable[[Request], None], send_continue: Callable[[], None]):
        self._parser = httptools.HttpRequestParser(self)
        self._limits = limits
        self._stats = stats
        self._deliver = deliver
        self._continue = send_continue
        self._now = 0.0
        self._fed = 0
        self._in_head = False
        self.deadline = _NEVER
        self.stopped = False
        self._clear()

    def feed(self, data: bytes, now: float) -> None:
        """Takes bytes in; complete requests are delivered before it returns."""
        if self.stopped:
            return
        self._now = now
        self._fed += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._decline_upgrade(data[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self.refuse(InvalidRequest(f"The request is not valid HTTP/1.1: {error}."))
        if self._in_head and self._fed > self._limits.head:
            self.refuse(self._head_too_large())

    def expire(self) -> None:
        """Ends a request that took too long."""
        part = "head" if self._in_head else "body"
        seconds = self._limits.head_seconds if self._in_head else self._limits.body_seconds
        self.refuse(RequestTimeout(f"The request's {part} did not arrive within {seconds:g} s."))

    def refuse(self, error: ApiError) -> None:
        """Delivers an error in the request's place and reads no further: where the next request begins is no longer known."""
        if not self.stopped:
            self.stopped = True
            self._stats.buffered_bytes -= self._size
            self._hand_over(b"", True, error)

    def discard(self) -> None:
        """Drops what came of a request that never will be complete."""
        self.stopped = True
        self._stats.buffered_bytes -= self._size
        self._clear()

    # httptools

    def on_message_begin(self) -> None:
        """Starts the clock of a request."""
        self._in_head = True
        self.deadline = self._now + self._limits.head_seconds

    def on_url(self, url: bytes) -> None:
        """Keeps the target, which may come in parts."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keeps a line that goes on, or a field that ends here."""
        if not self._in_head:
            return  # A trailer must not pass for a header.
        lowered = name.lower()
        if lowered not in wire.REQUEST_ENDS_HERE:
            self._lines += name, b": ", value, b"\r\n"
            return
        if lowered in _SINGLE and lowered in self._ends_here:
            self._double = lowered
        self._ends_here[lowered] = value

    def on_headers_complete(self) -> None:
        """Checks the head; a body that will be too large is refused before it comes."""
        if self.stopped:
            return
        self._in_head = False
        # Only in HTTP/1.0 a connection ends without being told to.
        told = b"connection" in self._ends_here or b"upgrade" in self._ends_here
        self._http10 = (told or not self._parser.should_keep_alive()) and self._parser.get_http_version() == "1.0"
        error = self._check_head()
        if error is not None:
            self.refuse(error)
            return
        self.deadline = self._now + self._limits.body_seconds
        if b"expect" in self._ends_here and not self._http10:
            self._continue()

    def on_body(self, data: bytes) -> None:
        """Keeps a piece of the body, within the bounds."""
        if self.stopped:
            return
        self._pieces.append(data)
        self._size += len(data)
        self._stats.buffered_bytes += len(data)
        if self._size > self._limits.body:
            self.refuse(self._body_too_large())
        elif self._stats.buffered_bytes > self._limits.buffered:
            self.refuse(
                Unavailable("The gateway holds as many requests in memory as it may. Retry later.", code="overloaded", retry_after=1)
            )

    def on_message_complete(self) -> None:
        """Delivers the request."""
        if not self.stopped and not self._parser.should_upgrade():
            body = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._hand_over(body, self._http10 or not self._parser.should_keep_alive(), None)

    def _decline_upgrade(self, rest: bytes) -> None:
        """Reads the request as if it had not asked for another protocol (RFC 9110 §7.8), as Java's own client does with each first one.

        The parser takes what follows the head for that protocol, so that the head is put before it again without the wish.
        """
        method = self._parser.get_method()
        if method == b"CONNECT":
            self.refuse(InvalidRequest("CONNECT is not supported: send requests to this address itself."))
        if self.stopped:
            return
        fields = [name + b": " + value + b"\r\n" for name, value in self._ends_here.items() if name not in (b"upgrade", b"expect")]
        head = b"%b %b HTTP/%b\r\n" % (method, self._target, self._parser.get_http_version().encode())
        again = head + b"".join(self._lines) + b"".join(fields) + b"\r\n" + rest
        self._clear()
        self._parser = httptools.HttpRequestParser(self)
        self.feed(again, self._now)

    def _hand_over(self, body: bytes, close: bool, error: ApiError | None) -> None:
        lines, ends_here = b"".join(self._lines), self._ends_here
        connection = ends_here.get(b"connection")
        if connection is not None and connection.lower() not in (b"keep-alive", b"close"):
            lines = wire.without_nominated(lines, connection)
        method = b"" if error is not None and self._in_head else self._parser.get_method()
        request = Request(
            method, self._target, lines, body, request_id(ends_here.get(b"x-request-id")), self._now, self._http10, close, error
        )
        self._clear()
        self._deliver(request)

    def _clear(self) -> None:
        self.deadline = _NEVER
        self._fed = 0
        self._in_head = False
        self._http10 = False
        self._double = b""
        self._target = b""
        self._lines: list[bytes] = []
        self._ends_here: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        self._size = 0

    def _check_head(self) -> ApiError | None:
        fields = self._ends_here
        if self._fed > self._limits.head and self._head_size() > self._limits.head:
            return self._head_too_large()
        if int(fields.get(b"content-length", 0)) > self._limits.body:
            return self._body_too_large()
        if self._double:
            return InvalidRequest(f"The header {self._double.decode()} is given twice.")
        if b"host" not in fields and not self._http10:
            return InvalidRequest("The header Host is missing.")
        if b"transfer-encoding" in fields and (self._http10 or fields[b"transfer-encoding"].lower() != b"chunked"):
            return InvalidRequest("The only supported Transfer-Encoding is chunked, in HTTP/1.1.")
        wrong = b"expect" in fields and fields[b"expect"].lower() != b"100-continue"
        return InvalidRequest("The only supported Expect is 100-continue.") if wrong else None

    def _head_size(self) -> int:
        own = sum(len(name) + len(value) + 4 for name, value in self._ends_here.items())
        return own + len(self._target) + sum(map(len, self._lines))

    def _head_too_large(self) -> ApiError:
        return HeadersTooLarge(f"The request's head passes {self._limits.head} bytes.")

    def _body_too_large(self) -> ApiError:
        return PayloadTooLarge(f"The request's body passes {self._limits.body} bytes.")
