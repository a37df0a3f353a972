"""Reports of runtimes, from HTTP servers on loopback."""

import asyncio
import json

import pytest
from aiohttp import web
from modelyard.api.progress import Progress
from modelyard.controller.projections import PodRecord
from modelyard.controller.reports import Reports
from modelyard.controller.types import Key, RuntimeReport

CHAT = Key("default", "chat")


@pytest.fixture
async def told(make_pod):
    """Returns the report of a pod that answers with ``body``."""
    runners = []

    async def ask(body: bytes) -> RuntimeReport | None:
        async def progress(_request):
            return web.Response(body=body)

        app = web.Application()
        app.add_routes([web.get("/progress", progress)])
        runner = web.AppRunner(app)
        runners.append(runner)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        arrived = asyncio.Event()
        reports = Reports(lambda _key: arrived.set(), runner.addresses[0][1])
        pods = [PodRecord("chat", "127.0.0.1", make_pod())]
        assert reports.of(CHAT, pods) is None
        await arrived.wait()
        report = reports.of(CHAT, pods)
        await reports.close()
        return report

    yield ask
    for runner in runners:
        await runner.cleanup()


async def test_a_ready_pod_is_asked(told):
    body = json.dumps({"phase": "ready", "capabilities": ["chat"], "seconds": {"load": 1.5}}).encode()
    assert await told(body) == RuntimeReport("pod-1", Progress(phase="ready", capabilities=("chat",), seconds=(("load", 1.5),)))


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"capabilities": ["chat"], "more": "%b"}' % (b"x" * (1 << 18))])
async def test_what_is_no_report_or_too_long_tells_nothing(told, body):
    assert await told(body) == RuntimeReport("pod-1")
