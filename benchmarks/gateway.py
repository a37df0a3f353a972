"""The gateway beside no proxy at all and beside vllm-router (Rust), in one run: requests per second and latency.

    python benchmarks/gateway.py [--rounds 5] [--seconds 3]

wrk sends chat completions of some 240 bytes; nginx answers each with 300 fixed bytes, so that what is measured is the proxy. Rounds
alternate between the three, and the table shows each one's median round, because the machine may be busy with other things. The gateway
runs as it does by default: access log, metrics and the sweep over slow clients are on.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import uvloop
from modelyard.gateway.directory import Directory
from modelyard.gateway.server import serve
from modelyard.gateway.settings import GatewaySettings
from modelyard.gateway.types import Endpoint, ModelRecord

ROUTER = "vllm-router==0.1.17"
ROUTER_VENV = Path(__file__).parent.parent / ".cache" / "vllm-router"
CONNECTIONS = (1, 32)
PATH = "/v1/chat/completions"
MODEL = "assistant"
REQUEST = json.dumps(
    {
        "model": MODEL,
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": "Tell me in two sentences why the sky looks blue at noon and red in the evening."},
        ],
        "max_tokens": 64,
    }
)
ANSWER = json.dumps(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1700000000,
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Air scatters blue light most."}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 40, "completion_tokens": 7, "total_tokens": 47},
    }
)
NGINX = """
worker_processes 1; daemon off; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off; keepalive_requests 1000000000; default_type application/json;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location = /health {{ return 200 'ok'; }}
        location = /v1/models {{ return 200 '{{"object":"list","data":[{{"id":"{model}","object":"model"}}]}}'; }}
        location / {{ return 200 '{answer}'; }}
    }}
}}
"""
WRK = """
wrk.method = "POST"; wrk.body = [[{body}]]; wrk.headers["content-type"] = "application/json"
done = function(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format('{{"requests":%d,"us":%d,"p50":%f,"p99":%f,"errors":%d}}\\n', summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99), errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
"""


class Round(NamedTuple):
    """What wrk saw: requests per second; latencies in microseconds."""

    rps: float
    p50: float
    p99: float


def main() -> None:
    options = _options()
    if options.serve:
        uvloop.run(_serve(*options.serve))
        return
    for tool, package in (("wrk", "wrk"), ("nginx", "nginx-light")):
        _need(tool, package)
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as running:
        upstream = running.enter_context(_nginx(Path(folder)))
        ports = {"direct": upstream, "modelyard": running.enter_context(_modelyard(upstream))}
        router = _router_binary()
        if router is not None:
            ports["vllm-router"] = running.enter_context(_router(router, upstream))
        rounds = _measure(ports, Path(folder), options.rounds, options.seconds)
    _report(rounds)


def _measure(ports: dict[str, int], folder: Path, count: int, seconds: int) -> dict[tuple[str, int], list[Round]]:
    script = folder / "wrk.lua"
    script.write_text(WRK.format(body=REQUEST))
    rounds: dict[tuple[str, int], list[Round]] = {(name, connections): [] for connections in CONNECTIONS for name in ports}
    for port in ports.values():
        _wrk(port, CONNECTIONS[-1], 1, script)
    for number in range(count):
        for connections in CONNECTIONS:
            for name, port in ports.items():
                rounds[name, connections].append(_wrk(port, connections, seconds, script))
        print(f"round {number + 1} of {count}", file=sys.stderr)
    return rounds


def _wrk(port: int, connections: int, seconds: int, script: Path) -> Round:
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), f"http://127.0.0.1:{port}{PATH}"]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    seen = json.loads(output.strip().splitlines()[-1])
    if seen["errors"]:
        sys.exit(f"{seen['errors']} of {seen['requests']} requests on port {port} failed")
    return Round(seen["requests"] / seen["us"] * 1e6, seen["p50"], seen["p99"])


def _report(rounds: dict[tuple[str, int], list[Round]]) -> None:
    middle = {key: Round(*(statistics.median(column) for column in zip(*seen, strict=True))) for key, seen in rounds.items()}
    print(f"{'proxy':<12} {'c':>3} {'rps':>9} {'p50 us':>8} {'p99 us':>8}")
    for (name, connections), one in middle.items():
        print(f"{name:<12} {connections:>3} {one.rps:>9,.0f} {one.p50:>8.0f} {one.p99:>8.0f}")
    print(f"added p50 at c=1: {middle['modelyard', 1].p50 - middle['direct', 1].p50:.0f} us")
    most = CONNECTIONS[-1]
    if ("vllm-router", most) not in middle:
        print("ratio: vllm-router does not install here, so there is nothing to compare with")
        return
    each = [ours.rps / theirs.rps for ours, theirs in zip(rounds["modelyard", most], rounds["vllm-router", most], strict=True)]
    print("ratio by round: " + " ".join(f"{one:.2f}" for one in each))
    print(f"ratio {statistics.median(each):.2f}")


@contextlib.contextmanager
def _nginx(folder: Path) -> Iterator[int]:
    port = _free_port()
    config = folder / "nginx.conf"
    config.write_text(NGINX.format(folder=folder, port=port, model=MODEL, answer=ANSWER))
    with _process(["nginx", "-c", str(config), "-p", str(folder), "-e", str(folder / "error.log")], port):
        yield port


@contextlib.contextmanager
def _modelyard(upstream: int) -> Iterator[int]:
    port = _free_port()
    with _process([sys.executable, __file__, "--serve", str(port), str(upstream)], port):
        yield port


@contextlib.contextmanager
def _router(binary: Path, upstream: int) -> Iterator[int]:
    port = _free_port()
    flags = ["--host", "127.0.0.1", "--port", str(port), "--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin"]
    flags += ["--prometheus-host", "127.0.0.1", "--prometheus-port", str(_free_port()), "--log-level", "warning"]
    with _process([str(binary), *flags], port):
        yield port


@contextlib.contextmanager
def _process(command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        try:
            _await_answer(child, port)
            yield
        finally:
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def _await_answer(child: subprocess.Popen[bytes], port: int) -> None:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{PATH}", REQUEST.encode(), {"content-type": "application/json"})
    end = time.monotonic() + 60
    while time.monotonic() < end and child.poll() is None:
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{child.args!r} does not answer")


async def _serve(port: int, upstream: int) -> None:
    directory = Directory()
    directory.set_model(ModelRecord(f"default/{MODEL}"))
    directory.set_endpoints(f"default/{MODEL}", frozenset({Endpoint("127.0.0.1", upstream)}))
    await serve(GatewaySettings(host="127.0.0.1", port=port, private_port=0), directory)
    await asyncio.Event().wait()


def _need(tool: str, package: str) -> None:
    if shutil.which(tool) is None and os.geteuid() == 0 and shutil.which("apt-get"):
        subprocess.run(["apt-get", "install", "-y", "-qq", package], check=False, stdout=subprocess.DEVNULL)
    if shutil.which(tool) is None:
        sys.exit(f"{tool} is missing: install Debian's package {package} (sudo apt-get install {package})")


def _router_binary() -> Path | None:
    """Installs vllm-router into a virtual environment of its own; returns None where no build of it fits the machine."""
    binary = ROUTER_VENV / "bin" / "vllm-router"
    if not binary.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ROUTER_VENV)], check=True)
        subprocess.run([str(ROUTER_VENV / "bin" / "pip"), "install", "-q", ROUTER], check=False)
    return binary if binary.exists() else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3, help="of each measurement")
    parser.add_argument(
        "--serve", type=int, nargs=2, metavar=("PORT", "UPSTREAM"), help="run only the gateway, before a server on UPSTREAM"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
