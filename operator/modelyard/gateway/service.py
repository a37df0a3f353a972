"""What happens to a request: routed, forwarded, counted. `forward` is the heart."""

from __future__ import annotations

import asyncio
import logging
import os
import time

from modelyard.api.errors import ApiError, BadGateway, InternalError, Unavailable
from modelyard.gateway import routes
from modelyard.gateway.access_log import AccessLog
from modelyard.gateway.balancer import Balancer
from modelyard.gateway.demand import Changes
from modelyard.gateway.directory import Directory
from modelyard.gateway.downstream import Downstream
from modelyard.gateway.errors import ClientClosed, Draining, UpstreamFailed
from modelyard.gateway.exchange import Exchange
from modelyard.gateway.metrics import GatewayStats
from modelyard.gateway.model_name import read_wanted, wanted_at_once
from modelyard.gateway.poll import BusyPoll
from modelyard.gateway.reader import Limits
from modelyard.gateway.settings import GatewaySettings
from modelyard.process import cgroup

_log = logging.getLogger(__name__)


class Service:
    """Everything that the connections share."""

    def __init__(self, settings: GatewaySettings, directory: Directory, access_log: AccessLog):
        self.settings = settings
        self.limits = Limits.of(settings)
        self.idle_seconds = settings.idle_timeout.total_seconds()
        self.stall_seconds = settings.stall_timeout.total_seconds()
        self.now = time.monotonic
        self.stats = GatewayStats()
        self.changes = Changes()
        self.balancer = Balancer(directory, settings, self.changes)
        self.connections: set[Downstream] = set()
        self.draining = False
        self.closing = False
        bound = 0.0 if cgroup.cores() is not None else settings.busy_poll_microseconds / 1e6
        self.poll = BusyPoll(bound, os.cpu_count() or 1, asyncio.get_running_loop())
        self._idle = asyncio.Event()
        self.access_log = access_log
        self._directory = directory

    def enter(self, connection: Downstream) -> ApiError | None:
        """Takes a connection in; returns why not when there are too many, and cuts it off when refusing is not enough."""
        self.connections.add(connection)
        self.stats.connections = count = len(self.connections)
        if count <= self.settings.max_connections:
            return None
        if count > 2 * self.settings.max_connections:
            connection.abort()
        return Unavailable("The gateway has as many connections as it may. Retry later.", code="overloaded", retry_after=1)

    def leave(self, connection: Downstream) -> None:
        """Forgets a connection."""
        self.connections.discard(connection)
        self.stats.connections = len(self.connections)
        if not self.connections:
            self._idle.set()

    async def until_idle(self) -> None:
        """Waits until no connection is left."""
        while self.connections:
            self._idle.clear()
            await self._idle.wait()

    async def abort_connections(self) -> None:
        """Closes every client connection at once, and waits until their tasks are over."""
        tasks = [connection.abort() for connection in self.connections]
        await asyncio.gather(*(task for task in tasks if task is not None), return_exceptions=True)

    async def handle(self, exchange: Exchange) -> None:
        """Answers a request, whatever happens; raises CancelledError when the client has left."""
        try:
            request = exchange.request
            if request.error is not None:
                raise request.error
            path = request.target.partition(b"?")[0]
            if request.method == b"POST" and path in routes.PASSED:
                await self.forward(exchange)
            else:
                exchange.replay(routes.answer(self._directory, request.method, path))
        except ApiError as error:
            exchange.fail(error)
        except asyncio.CancelledError:
            if exchange.interruption is None:
                exchange.error = ClientClosed("The client left.")
                exchange.status = exchange.status or ClientClosed.status
                raise
            _uncancel()
            exchange.fail(exchange.interruption)
        except Exception:  # noqa: BLE001  (a bug costs one request, is logged whole, and is not hidden from the client)
            _log.exception("request %s failed", exchange.request.id.decode())
            exchange.fail(InternalError("The gateway failed; its log has the cause under this request id."))
        finally:
            self._finish(exchange)

    async def forward(self, exchange: Exchange) -> None:
        """Passes a request to a replica of its model and the answer back, as both come.

        A replica that fails before the first byte of an answer is left out for a while, and the request tried once more: generation has no
        side effects.
        """
        request = exchange.request
        wanted = wanted_at_once(request.body) or await read_wanted(request.body, request.lines)
        record = self._directory.names().get(wanted.model) or routes.resolve(self._directory, request.target, wanted.model)
        group = self.balancer.groups[record.key]
        exchange.record, exchange.stats, exchange.streaming = record, group.stats, wanted.stream
        retried = False
        while True:
            target = group.pick() or await group.wait(exchange)
            with target:
                exchange.endpoint = target.endpoint
                exchange.deadline = self.now() + record.request_timeout
                try:
                    await target.pool.send(exchange)
                    target.failures = 0
                    return
                except UpstreamFailed as failure:
                    group.eject(target, failure)
                    group.stats.fail(failure.kind)
                    if exchange.relayed or retried:
                        _give_up(exchange, failure)
                        return
            group.stats.retries += 1
            retried = True

    def _finish(self, exchange: Exchange) -> None:
        request = exchange.request
        self.stats.buffered_bytes -= len(request.body)
        seconds = self.now() - request.received_at
        stats = exchange.stats
        if stats is None:
            stats = self.stats.unrouted
        elif exchange.first_byte_at:
            stats.first_byte.observe(exchange.first_byte_at - request.received_at)
        if exchange.held_seconds:
            stats.held.observe(exchange.held_seconds)
        stats.finish(exchange.status, seconds)
        self.access_log.note(exchange, seconds)


def _give_up(exchange: Exchange, failure: UpstreamFailed) -> None:
    if isinstance(failure, Draining):
        exchange.replay(failure.answer)
    else:
        exchange.fail(BadGateway(f"The replica that served the request failed: {failure}."))


def _uncancel() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.uncancel()
