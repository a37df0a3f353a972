"""A stand-in for the runtime: a small real server that starts in an instant, with the runtime's ports, probes and termination log."""

import asyncio
import sys
import textwrap
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest
from modelyard.local.container import Mounts
from modelyard.local.devices import Devices
from modelyard.local.pod import Host

SERVER = textwrap.dedent("""
    import json, os, signal, sys, threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    ready = threading.Event()
    release = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/crash":
                with open(os.environ["MODELYARD_TERMINATION_LOG"], "w") as log:
                    log.write(json.dumps({"reason": "OutOfMemory", "message": "no memory", "remedy": "buy some"}) + "\\n")
                print("about to crash", flush=True)
                os._exit(84)
            if self.path == "/progress":
                return self.reply(200, {"phase": "ready", "fraction": 1.0, "seconds": {"load": 0.5}, "capabilities": ["chat"]})
            self.reply(200 if self.path != "/ready" or not os.path.exists(sys.argv[1]) else 503, {})

        def reply(self, status, body):
            text = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            if self.path == "/slow":  # the body follows once the process is asked to stop
                release.wait()
            self.wfile.write(text)

        def log_message(self, *_): ...

    def drain(*_):
        print("draining", flush=True)
        release.set()
        threading.Thread(target=server.shutdown).start()

    signal.signal(signal.SIGTERM, drain)
    server = ThreadingHTTPServer((os.environ["MODELYARD_HOST"], int(os.environ["MODELYARD_PORT"])), Handler)
    server.daemon_threads = False
    private = ThreadingHTTPServer((os.environ["MODELYARD_HOST"], int(os.environ["MODELYARD_METRICS_PORT"])), Handler)
    threading.Thread(target=private.serve_forever, daemon=True).start()
    print("listening", flush=True)
    server.serve_forever()
    server.server_close()
    print("done", flush=True)
""")


def _probe(path: str) -> dict[str, object]:
    return {"httpGet": {"path": path}, "periodSeconds": 0.1, "timeoutSeconds": 5, "failureThreshold": 100}


class Template:
    """Pod specs of the stand-in. While the file ``unready`` exists its pods are not ready."""

    def __init__(self, folder: Path):
        self.unready = folder / "unready"
        self._script = folder / "server.py"
        self._script.write_text(SERVER)

    def spec(self, *, command: list[str] | None = None, **more: object) -> dict[str, object]:
        runtime = {
            "name": "runtime",
            "command": command or [sys.executable, "-I", str(self._script), str(self.unready)],
            "startupProbe": _probe("/health"),
            "livenessProbe": _probe("/health"),
            "readinessProbe": _probe("/ready") | {"failureThreshold": 1},
            **more,
        }
        return {"containers": [runtime], "terminationGracePeriodSeconds": 20}


class News:
    """Lets a test wait for what it expects, woken by the pod's own news."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.actions: list[Callable[[], None]] = []

    def __call__(self) -> None:
        self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not condition():
                self._event.clear()
                await self._event.wait()
                for action in self.actions:
                    action()


@pytest.fixture
def template(tmp_path: Path) -> Template:
    return Template(tmp_path)


@pytest.fixture
def news() -> News:
    return News()


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async with aiohttp.ClientSession() as session:
        yield Host(session, Devices(("0", "1")), Mounts(), {"PATH": "/usr/bin:/bin"}, tmp_path / "cache", tmp_path / "logs")
