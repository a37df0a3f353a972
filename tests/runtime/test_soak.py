"""Many requests to a server of several models, half of whose clients leave early: nothing is left of them, neither memory nor tasks."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from .conftest import wait_until
from .crowd import Visitors
from .refusals import assert_serves

#: Requests; `make soak` has 20,000.
REQUESTS = int(os.environ.get("MODELYARD_SOAK_REQUESTS", "400"))
#: Requests after which caches are full and everything is loaded: a quarter, in a long run.
WARM = max(REQUESTS // 4, 200)
#: Growth that is put up with from then to the end.
GROWTH = 0.02

MODELS = ("tiny-chat", "tiny-vision", "tiny-embed", "tiny-rerank", "tiny-classify")
#: Caches are small, so that they are full soon.
FLAGS = (
    "--kv-cache-tokens=2048",
    "--max-concurrent-sequences=8",
    "--speculative-tokens=2",
    "--embedding-cache-bytes=16384",
    "--max-body-bytes=65536",
    "--host=127.0.0.1",
    "--port=0",
    "--metrics-port=0",
)


@dataclass(frozen=True)
class Server:
    """A server's process and both its ports."""

    process: psutil.Process
    url: str
    private_url: str

    def memory(self) -> int:
        """Returns the bytes that it and its children hold."""
        return sum(process.memory_info().rss for process in (self.process, *self.process.children(recursive=True)))

    def clients(self) -> int:
        """Returns the number of connections."""
        return sum(connection.status != psutil.CONN_LISTEN for connection in self.process.net_connections("tcp"))

    def parts(self) -> dict[str, Any]:
        """Returns its tasks and its children by what they run, and its open files."""
        process = httpx.get(f"{self.private_url}/admin/diagnostics", timeout=60).json()["process"]
        wait_until(lambda: self.clients() == 0, "this client has left too")
        children = sorted(child["runs"] for child in process["children"])
        return {"tasks": process["tasks"], "children": children, "files": self.process.num_fds()}

    def shown(self, *names: str) -> list[float]:
        """Returns the values of the metrics whose names begin so."""
        lines = httpx.get(f"{self.private_url}/metrics", timeout=60).text.splitlines()
        return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(tuple(f"modelyard_{name}" for name in names))]

    def is_idle(self) -> bool:
        """Whether no request is left, nor a block of the KV cache taken, nor a client connected."""
        return not any(self.shown("num_requests_", "capability_requests_", "kv_cache_usage_perc")) and self.clients() == 0


@pytest.fixture
def server(tmp_path: Path, cache_dir: Path) -> Iterator[Server]:
    models = [f"--model=builtin://{name}" for name in MODELS]
    log = tmp_path / "log"
    with log.open("wb") as out:
        command = [sys.executable, "-m", "modelyard_runtime.main", "serve", *models, *FLAGS, f"--cache-dir={cache_dir}"]
        process = subprocess.Popen(command, stderr=out)

    def started() -> list[dict[str, Any]]:
        assert process.poll() is None, log.read_text()
        return [record for line in log.read_text().splitlines() if (record := json.loads(line))["message"] == "listening"]

    try:
        wait_until(lambda: bool(started()), "it listens")
        [ports] = started()
        served = Server(psutil.Process(process.pid), *(f"http://127.0.0.1:{ports[name]}" for name in ("port", "metricsPort")))
        wait_until(lambda: httpx.get(f"{served.url}/ready").status_code == 200, "it is ready")
        yield served
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str], server: Server) -> Callable[[int], None]:
    """Says how far a long run is."""
    began = time.monotonic()

    def say(ended: int) -> None:
        if ended % 1000 == 0:
            with capsys.disabled():
                print(f"{ended} requests, {server.memory() / (1 << 20):.1f} MiB, {time.monotonic() - began:.0f} s", flush=True)

    return say


async def test_nothing_is_left_of_a_crowd(server: Server, tell: Callable[[int], None]) -> None:
    visitors = Visitors(server.url)
    await visitors.come(range(WARM), tell)
    wait_until(server.is_idle, "the first ones have left")
    memory, parts = server.memory(), server.parts()
    await visitors.come(range(WARM, REQUESTS), tell)
    wait_until(server.is_idle, "everybody has left")
    assert server.parts() == parts
    assert server.memory() <= memory * (1 + GROWTH)
    assert sum(server.shown('http_requests_total{method="POST",path="/v1/chat/completions",status="499"}')) > 0, "some left early"
    assert_serves(server)
