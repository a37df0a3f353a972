"""The gateway as a whole: both ports, the clock that bounds slow clients, and the way to stop without failing a request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from aiohttp import web

from modelyard.api.errors import Unavailable
from modelyard.gateway import demand, private
from modelyard.gateway.access_log import AccessLog
from modelyard.gateway.demand import ModelDemand
from modelyard.gateway.directory import Directory
from modelyard.gateway.downstream import Downstream
from modelyard.gateway.metrics import GatewayCollector, registry
from modelyard.gateway.service import Service
from modelyard.gateway.settings import GatewaySettings

_TICK = 0.2


class Gateway:
    """A running gateway. ``port`` and ``private_port`` are those it listens on."""

    def __init__(self, settings: GatewaySettings, service: Service, ready: Callable[[], bool]):
        self.settings = settings
        self.port = 0
        self.private_port = 0
        self._service = service
        self._ready = ready
        self._listener: asyncio.Server | None = None
        self._private: web.AppRunner | None = None
        self._clock: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def connections(self) -> int:
        """Client connections that are open."""
        return len(self._service.connections)

    def ready(self) -> bool:
        """What /readyz says: whether new clients should come."""
        return not self._stopping and self._ready()

    def demand(self) -> dict[str, ModelDemand]:
        """Returns requests in flight and waiting by model (``namespace/name``); a model without any is left out."""
        return demand.snapshot(self._service.balancer.groups, self._service.now())

    async def start(self) -> None:
        """Listens on both ports; raises OSError when one is taken."""
        service, settings = self._service, self.settings
        collector = GatewayCollector(
            service.stats, lambda: service.balancer.groups, lambda: service.balancer.held.used, lambda: service.access_log.lost
        )
        app = private.private_app(registry(collector), self.ready, self.demand, service.changes)
        self._private, self.private_port = await private.start(app, settings.host, settings.private_port)
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(lambda: Downstream(service), settings.host, settings.port, backlog=2048)
        except OSError:
            await self._private.cleanup()
            raise
        self.port = self._listener.sockets[0].getsockname()[1]
        self._clock = loop.create_task(self._tick())

    async def drain(self) -> None:
        """Stops without failing a request, as far as the drain timeout allows, and closes everything.

        Not ready at once; serves on for the settle time, since load balancers take a moment to learn that; then accepts no more
        connections, lets running requests end, and ends with an error those that outlast the timeout.
        """
        if self._stopping:
            return
        self._stopping = True
        self._service.draining = True
        await asyncio.sleep(self.settings.settle_time.total_seconds())
        assert self._listener is not None
        self._listener.close()
        self._service.closing = True
        await self._until_idle(self.settings.drain_timeout.total_seconds())
        for connection in list(self._service.connections):
            connection.interrupt(Unavailable("The gateway is stopping. Retry.", code="draining", retry_after=1))
        await self._until_idle(1.0)
        await self.close()

    async def close(self) -> None:
        """Closes everything at once."""
        self._stopping = True
        if self._listener is not None:
            self._listener.close()
        if self._clock is not None:
            self._clock.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._clock
        await self._service.abort_connections()
        self._service.balancer.shut()
        if self._private is not None:
            await self._private.cleanup()
        await self._service.access_log.close()

    async def _until_idle(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._service.until_idle()
        except TimeoutError:
            return

    async def _tick(self) -> None:
        service = self._service
        idle = self.settings.upstream_idle_timeout.total_seconds()
        while True:
            await asyncio.sleep(_TICK)
            now = service.now()
            for connection in list(service.connections):
                connection.check(now)
            service.balancer.drop_idle(now - idle)


async def serve(settings: GatewaySettings, directory: Directory, *, ready: Callable[[], bool] = lambda: True) -> Gateway:
    """Starts a gateway over a directory, which may change at any time. ``ready`` says whether the directory is complete."""
    gateway = Gateway(settings, Service(settings, directory, AccessLog(enabled=settings.access_log)), ready)
    await gateway.start()
    return gateway
