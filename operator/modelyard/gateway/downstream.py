"""The leg to the clients: one connection, its requests one after the other, and the clocks that bound a slow client.

Its requests are served in order. Each is begun where its last byte is read, and a task goes on with what has to wait. When the client
leaves, or a time runs out, the task is cancelled, and everything that the request held (replica, upstream connection, place in a queue)
is let go on the way out.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from modelyard.api.errors import ApiError, Timeout
from modelyard.gateway import eager, wire
from modelyard.gateway.exchange import Exchange, Request
from modelyard.gateway.reader import RequestReader

if TYPE_CHECKING:
    from modelyard.gateway.service import Service
    from modelyard.gateway.upstream import UpstreamConnection

_LINGER = 3.0


class Downstream(asyncio.Protocol):
    """A client's connection."""

    __slots__ = (
        "_exchange", "_idle_since", "_linger_until", "_paused_reading", "_reader", "_requests", "_source",
        "_stalled_since", "_task", "_transport", "_writable", "now", "service",
    )  # fmt: skip

    def __init__(self, service: Service):
        self.service = service
        self.now = service.now
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None
        self._requests: deque[Request] = deque()
        self._exchange: Exchange | None = None
        self._source: UpstreamConnection | None = None
        self._reader = RequestReader(service.limits, service.stats, self._requests.append, self._send_continue)
        self._idle_since = 0.0
        self._linger_until: float | None = None
        self._stalled_since: float | None = None
        self._writable: asyncio.Future[None] | None = None
        self._paused_reading = False

    @property
    def busy(self) -> bool:
        """Whether a request is being served or coming in."""
        return self._exchange is not None or bool(self._requests) or self._reader.deadline != float("inf")

    def write(self, data: bytes) -> None:
        """Sends bytes to the client; they are lost where it has left, which the task will learn in a moment."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def slow_down(self, source: UpstreamConnection | None) -> None:
        """Names the upstream connection that is to stop reading while the client does not read."""
        if self._stalled_since is not None:
            if source is not None:
                source.pause_reading()
            elif self._source is not None:
                self._source.resume_reading()
        self._source = source

    def interrupt(self, error: ApiError) -> None:
        """Ends the current request with an error."""
        if self._exchange is not None and self._exchange.interruption is None and self._task is not None:
            self._exchange.interruption = error
            self._task.cancel()

    def abort(self) -> asyncio.Task[None] | None:
        """Ends the connection at once; returns the task that is ending with it."""
        self._transport.abort()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def check(self, now: float) -> None:
        """Acts on the clocks that ran out; called a few times a second."""
        if self._stalled_since is not None and now - self._stalled_since > self.service.stall_seconds:
            self._transport.abort()
        elif self._linger_until is not None:
            if now >= self._linger_until:
                self._transport.abort()
        elif self._exchange is not None:
            if now >= self._exchange.deadline:
                self.interrupt(Timeout("The model did not finish its answer in time (limits.requestTimeout)."))
        elif now >= self._reader.deadline:
            self._reader.expire()
            self._go_on()
        elif not self.busy:
            self._close_idle(too_long=now - self._idle_since > self.service.idle_seconds)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Takes the connection in, or refuses it."""
        self._transport = transport
        self._idle_since = self.now()
        refusal = self.service.enter(self)
        if refusal is not None:
            self._reader.refuse(refusal)
            self._go_on()

    def data_received(self, data: bytes) -> None:
        """Parses and serves; a client that sends requests ahead is not read until they are answered."""
        self._reader.feed(data, self.now())
        self._go_on()
        if self._requests and not self._paused_reading:
            self._paused_reading = True
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Lets everything go."""
        self.service.leave(self)
        self._forget()
        if self._task is not None:
            self._task.cancel()

    def pause_writing(self) -> None:
        """Stops the upstream: the client does not read."""
        self._stalled_since = self.now()
        if self._source is not None:
            self._source.pause_reading()

    def resume_writing(self) -> None:
        """Lets the upstream go on."""
        self._stalled_since = None
        if self._source is not None:
            self._source.resume_reading()
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _close_idle(self, *, too_long: bool) -> None:
        """Closes; a client that does not fetch its last answer from a connection that is closing is cut off in the end."""
        if self._transport.is_closing():
            if too_long:
                self._transport.abort()
        elif too_long or self.service.closing:
            self._transport.close()

    def _send_continue(self) -> None:
        if self._exchange is None and not self._requests:
            self._transport.write(wire.CONTINUE)

    def _go_on(self) -> None:
        """Serves the requests that have arrived, unless that is being done or the client has left."""
        if self._requests and self._task is None and not self._transport.is_closing():
            self._task = eager.start(self._serve())

    async def _serve(self) -> None:
        try:
            while self._requests:
                exchange = self._exchange = Exchange(self._requests.popleft(), self)
                self.service.poll.began()
                try:
                    await self.service.handle(exchange)
                finally:
                    self.service.poll.ended()
                    self._exchange = None
                if exchange.close:
                    self._end(exchange)
                    return
                await self._until_writable()
                self._idle_since = self.now()
            self._read_on()
        except asyncio.CancelledError:
            # The client has left: what is cancelled ends here.
            self._transport.abort()
        finally:
            self._task = None

    def _read_on(self) -> None:
        if self._paused_reading:
            self._paused_reading = False
            self._transport.resume_reading()

    async def _until_writable(self) -> None:
        if self._stalled_since is not None:
            self._writable = asyncio.get_running_loop().create_future()
            await self._writable

    def _end(self, exchange: Exchange) -> None:
        """Closes; after a refused request not before the client had a chance to read why, as it may still be sending."""
        self._idle_since = self.now()
        self._forget()
        if exchange.request.error is None or not self._transport.can_write_eof():
            self._transport.close()
            return
        self._transport.write_eof()
        self._linger_until = self.now() + _LINGER

    def _forget(self) -> None:
        """Drops the requests that are not served any more."""
        self._reader.discard()
        for request in self._requests:
            self.service.stats.buffered_bytes -= len(request.body)
        self._requests.clear()
