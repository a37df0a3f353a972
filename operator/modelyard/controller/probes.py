"""The operator's own port: /metrics, /readyz, and a /healthz that proves work instead of mere breath."""

import time
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from modelyard.controller import metrics

if TYPE_CHECKING:
    from modelyard.controller.process import Operator

#: Bookmarks come each minute on a quiet watch.
LONGEST_WATCH_AGE = 300.0
#: The watch brings our own writes back within moments.
LONGEST_ECHO_AGE = 120.0
LONGEST_QUEUE_AGE = 300.0


class Probes:
    """Serves the probes of one operator."""

    def __init__(self, operator: "Operator"):
        self._operator = operator
        self._runner: web.AppRunner | None = None
        self.port = 0

    async def start(self) -> None:
        """Listens; raises OSError when the port is taken."""
        app = web.Application()
        app.add_routes([web.get("/healthz", self._health), web.get("/readyz", self._ready), web.get("/metrics", self._metrics)])
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        settings = self._operator.settings
        await web.TCPSite(self._runner, settings.host, settings.port).start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Closes the port."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        problems = unhealthy(self._operator)
        return web.Response(status=503 if problems else 200, text="; ".join(problems) or "ok")

    async def _ready(self, _: web.Request) -> web.Response:
        missing = [informer.resource.plural for informer in self._operator.cluster.informers if not informer.synced.is_set()]
        return web.Response(status=503 if missing else 200, text=f"not listed yet: {', '.join(missing)}" if missing else "ok")

    async def _metrics(self, _: web.Request) -> web.Response:
        operator = self._operator
        metrics.QUEUE_DEPTH.set(len(operator.queue))
        metrics.QUEUE_AGE.set(operator.queue.oldest_age)
        for informer in operator.cluster.informers:
            if informer.synced.is_set():
                metrics.WATCH_AGE.labels(informer.resource.plural).set(informer.age)
        return web.Response(body=generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


def unhealthy(operator: "Operator") -> list[str]:
    """Returns what no longer works and a restart may mend; while the API server itself is away, that is nothing."""
    if time.monotonic() - operator.lease.last_contact > operator.settings.lease_duration:
        return []
    problems = [
        f"nothing heard of {informer.resource.plural} for {informer.age:.0f} s"
        for informer in operator.cluster.informers
        if informer.synced.is_set() and informer.age > LONGEST_WATCH_AGE
    ]
    if (age := operator.models.echo_age) > LONGEST_ECHO_AGE:
        problems.append(f"an own write has not come back on the watch of models for {age:.0f} s")
    if operator.lease.is_leader and (age := operator.queue.oldest_age) > LONGEST_QUEUE_AGE:
        problems.append(f"a model has been due for {age:.0f} s")
    return problems
