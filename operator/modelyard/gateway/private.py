"""The private port: metrics, probes and the demand feed. Not for clients, and not on the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from modelyard.gateway import demand
from modelyard.gateway.demand import Changes, ModelDemand


def private_app(
    registry: CollectorRegistry, ready: Callable[[], bool], current: Callable[[], dict[str, ModelDemand]], changes: Changes
) -> web.Application:
    """Returns the application. ``ready`` is what /readyz says; ``current`` the demand at this moment."""

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n") if ready() else web.Response(status=503, text="not ready: starting or stopping\n")

    async def feed(request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") not in ("1", "true"):
            return web.Response(body=demand.to_line(current()), content_type="application/json")
        response = web.StreamResponse(headers={"content-type": "application/jsonl"})
        await response.prepare(request)
        follower = changes.follow()
        try:
            async for _ in follower:
                await response.write(demand.to_line(current()))
        except ConnectionError:
            # The follower left; nothing is owed to it.
            return response
        finally:
            await follower.aclose()
        return response

    app = web.Application()
    app.add_routes([web.get("/metrics", metrics), web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/demand", feed)])
    return app


async def start(app: web.Application, host: str, port: int) -> tuple[web.AppRunner, int]:
    """Starts to listen; returns the runner to clean up and the port."""
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
    except (OSError, asyncio.CancelledError):
        await runner.cleanup()
        raise
    return runner, runner.addresses[0][1]
