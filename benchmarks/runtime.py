"""The runtime beside `transformers serve` (continuous batching on): the same weights, prompts and lengths, over HTTP, in one run.

Both stream greedy chat answers of SmolLM2 in float32 on CPU. The servers take turns, so that neither idles beside the other's
measurement, and the turns repeat, so that a busy minute of the machine does not fall on one alone. Needs `transformers[serving]`.
Prints a table, and last a line `ratio <tokens per second at c = 8, ours over theirs>`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from modelyard_runtime.sources.resolve import resolve

SUBJECTS = ("a lighthouse keeper", "two rivers", "the last train", "a clock without hands", "a garden on the moon", "the first bread")
SUBJECTS += ("a blind painter", "an honest thief", "the slow storm", "a bridge of glass")
BACKGROUND = (
    "It should have a beginning, a middle and an end, at least three characters with names of their own, a conversation between two of "
    "them, a place that is described with care, and a turn that nobody expects. Do not stop early, do not explain what you are doing, and "
    "do not use lists or headings. The reader is a grown-up who likes long sentences and small details of everyday life."
)


@dataclass(frozen=True)
class Server:
    """A way to serve a folder of weights."""

    name: str
    command: list[str]
    ready_path: str
    model: str


@dataclass
class Measured:
    """What the answers of one concurrency took; seconds."""

    seconds: float = 0.0
    tokens: int = 0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return self.tokens / self.seconds


def servers(folder: Path, port: int) -> list[Server]:
    ours = ["-m", "modelyard_runtime.main", "serve", f"--model=file://{folder}", "--served-model-name=smollm2", "--dtype=float32"]
    ours += ["--host=127.0.0.1", f"--port={port}", "--metrics-port=0", "--log-level=warning"]
    theirs = ["serve", str(folder), "--continuous-batching", "--device", "cpu", "--dtype", "float32", "--attn-implementation", "sdpa"]
    theirs += ["--cb-num-blocks", "32", "--cb-max-batch-tokens", "512", "--host", "127.0.0.1", "--port", str(port)]
    transformers = str(Path(sys.executable).with_name("transformers"))
    return [
        Server("modelyard", [sys.executable, *ours], "/ready", "smollm2"),
        Server("transformers serve", [transformers, *theirs], "/health", str(folder)),
    ]


@contextmanager
def process(server: Server) -> Iterator[None]:
    """Runs a server, its output in a file that is shown when it ends by itself."""
    with tempfile.TemporaryFile("w+") as log:
        child = subprocess.Popen(server.command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | {"HF_HUB_OFFLINE": "1"})
        try:
            yield
        finally:
            ended = child.poll()
            child.terminate()
            child.wait(timeout=30)
            if ended is not None:
                log.seek(0)
                print(f"{server.name} ended with {ended}:\n{log.read()[-4000:]}", file=sys.stderr)


async def wait_ready(client: httpx.AsyncClient, path: str, limit: float = 180) -> None:
    """Returns once the server answers 200. Raises TimeoutError after ``limit`` seconds."""
    async with asyncio.timeout(limit):
        while True:
            try:
                if (await client.get(path)).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.2)


async def events(client: httpx.AsyncClient, body: dict[str, object]) -> AsyncIterator[dict[str, object]]:
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line[6:])


async def answer(client: httpx.AsyncClient, model: str, prompt: str, new_tokens: int, into: Measured) -> None:
    """Streams one answer; adds its tokens and times."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": new_tokens, "temperature": 0.0}
    started = last = time.perf_counter()
    begun = False
    async for event in events(client, body | {"stream": True, "stream_options": {"include_usage": True}}):
        now = time.perf_counter()
        choices = event.get("choices") or []
        if choices and choices[0]["delta"].get("content"):
            (into.gaps if begun else into.first).append(now - (last if begun else started))
            last, begun = now, True
        if event.get("usage"):
            into.tokens += event["usage"]["completion_tokens"]


async def measure(client: httpx.AsyncClient, model: str, concurrency: int, into: Measured, *, requests: int, new_tokens: int) -> None:
    """Has ``concurrency`` clients send ``requests`` each, one after another."""

    async def one(worker: int) -> None:
        for i in range(requests):
            subject = SUBJECTS[(worker + 3 * i) % len(SUBJECTS)]
            await answer(client, model, f"Write a long story about {subject}. {BACKGROUND}", new_tokens, into)

    started = time.perf_counter()
    await asyncio.gather(*(one(worker) for worker in range(concurrency)))
    into.seconds += time.perf_counter() - started


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
        yield client


async def turn(server: Server, port: int, arguments: argparse.Namespace, results: dict[tuple[str, int], Measured]) -> None:
    """Starts a server, warms it, measures each concurrency, and stops it."""
    with process(server):
        async with client_of(port) as client:
            await wait_ready(client, server.ready_path)
            await measure(client, server.model, 2, Measured(), requests=1, new_tokens=4)
            for concurrency in arguments.concurrency:
                into = results.setdefault((server.name, concurrency), Measured())
                await measure(client, server.model, concurrency, into, requests=arguments.requests, new_tokens=arguments.new_tokens)


def report(results: dict[tuple[str, int], Measured]) -> None:
    print(f"{'server':<20} {'c':>3} {'tokens':>7} {'tokens/s':>9} {'TTFT p50 ms':>12} {'inter-token p50 ms':>19}")
    for (name, concurrency), got in sorted(results.items(), key=lambda item: (item[0][1], item[0][0])):
        first, gap = statistics.median(got.first) * 1e3, statistics.median(got.gaps) * 1e3
        print(f"{name:<20} {concurrency:>3} {got.tokens:>7} {got.throughput:>9.1f} {first:>12.0f} {gap:>19.1f}")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--requests", type=int, default=2, help="requests per client and turn")
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--turns", type=int, default=2)
    arguments = parser.parse_args()
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    folder = resolve("builtin://smollm2-135m-instruct", cache_dir=cache, progress=lambda step: None)
    results: dict[tuple[str, int], Measured] = {}
    for _ in range(arguments.turns):
        port = free_port()
        for server in servers(folder, port):
            asyncio.run(turn(server, port, arguments, results))
    report(results)
    most = max(arguments.concurrency)
    print(f"ratio {results['modelyard', most].throughput / results['transformers serve', most].throughput:.2f}")


if __name__ == "__main__":
    main()
