"""The runtime beside `transformers serve` (continuous batching on), `model.generate` and llama-cpp-python: same weights, prompts, lengths.

All answer greedily in float32 on CPU, the servers streamed over HTTP. They run side by side and take turns of a few seconds, the others
paused meanwhile; a ratio is the median of the rounds' ratios, so that a busy minute of the machine does not fall on one alone. Prompts
differ in their first words from request to request, so that no server finds one in a cache. Needs `transformers[serving]`.

llama-cpp-python is compared where ``--llama-python`` names a Python that has it (`pip install "llama-cpp-python[server]"`); its server
answers one request after another. Prints a table per model, and last a line `ratio <median ratio at c = 8, SmolLM2>`.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import orjson
from runtime_peers import (
    QWEN,
    SMOLLM2,
    Running,
    cache_folder,
    folder_of,
    free_port,
    has_llama_cpp,
    llama_cpp,
    ours,
    running,
    transformers_serve,
    write_gguf,
)

OURS, GENERATE = "modelyard", "model.generate"
SUBJECTS = ("a lighthouse keeper", "two rivers", "the last train", "a clock without hands", "a garden on the moon", "the first bread")
SUBJECTS += ("a blind painter", "an honest thief", "the slow storm", "a bridge of glass")
BACKGROUND = (
    "It should have a beginning, a middle and an end, at least three characters with names of their own, a conversation between two of "
    "them, a place that is described with care, and a turn that nobody expects. Do not stop early, do not explain what you are doing, and "
    "do not use lists or headings. The reader is a grown-up who likes long sentences and small details of everyday life."
)
_numbers = itertools.count(1)


@dataclass
class Measured:
    """What the answers of one concurrency took; seconds. One entry of ``throughputs`` per round."""

    throughputs: list[float] = field(default_factory=list)
    tokens: int = 0
    processor: float = 0.0
    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)


Results = dict[tuple[str, int], Measured]


def prompt() -> str:
    number = next(_numbers)
    return f"Story {number}: write a long one about {SUBJECTS[number % len(SUBJECTS)]}. {BACKGROUND}"


async def wait_ready(client: aiohttp.ClientSession, path: str, limit: float = 300) -> None:
    """Returns once the server answers 200. Raises TimeoutError after ``limit`` seconds."""
    async with asyncio.timeout(limit):
        while True:
            try:
                async with client.get(path) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


async def events(client: aiohttp.ClientSession, body: dict[str, object]) -> AsyncIterator[dict[str, object]]:
    async with client.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"data: {"):
                yield orjson.loads(line[6:])


async def answer(client: aiohttp.ClientSession, model: str, new_tokens: int, into: Measured) -> int:
    """Streams one answer and adds its times; returns its tokens. A server that does not count them sends one with each event."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt()}], "max_tokens": new_tokens, "temperature": 0.0}
    started = last = time.perf_counter()
    counted, seen = None, 0
    async for event in events(client, body | {"stream": True, "stream_options": {"include_usage": True}}):
        now = time.perf_counter()
        choices = event.get("choices") or []
        if choices and choices[0]["delta"].get("content"):
            (into.gaps if seen else into.first).append(now - (last if seen else started))
            last, seen = now, seen + 1
        if event.get("usage"):
            counted = event["usage"]["completion_tokens"]
    return seen if counted is None else counted


async def turn(server: Running, client: aiohttp.ClientSession, concurrency: int, into: Measured, *, requests: int, new_tokens: int) -> None:
    """Has ``concurrency`` clients send ``requests`` each, one after another, while the other servers are paused."""

    async def one() -> int:
        return sum([await answer(client, server.peer.model, new_tokens, into) for _ in range(requests)])

    server.resume()
    processor, started = server.seconds(), time.perf_counter()
    tokens = sum(await asyncio.gather(*(one() for _ in range(concurrency))))
    into.throughputs.append(tokens / (time.perf_counter() - started))
    into.tokens += tokens
    into.processor += server.seconds() - processor
    server.pause()


class Generator:
    """`model.generate` in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]):
        self._process = process
        assert process.stdin is not None
        assert process.stdout is not None
        self._in, self._out = process.stdin, process.stdout
        self._out.readline()

    def turn(self, into: Measured, *, batch: int, new_tokens: int) -> None:
        print(json.dumps({"prompts": [prompt() for _ in range(batch)], "new_tokens": new_tokens}), file=self._in, flush=True)
        got = json.loads(self._out.readline())
        into.throughputs.append(got["tokens"] / got["seconds"])
        into.tokens += got["tokens"]


@contextmanager
def generator(folder: Path) -> Iterator[Generator]:
    command = [sys.executable, str(Path(__file__).with_name("runtime_generate.py")), str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield Generator(process)
        finally:
            process.terminate()


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[aiohttp.ClientSession]:
    address, timeout = f"http://127.0.0.1:{port}", aiohttp.ClientTimeout(total=600)
    async with aiohttp.ClientSession(address, connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as client:
        yield client


@dataclass(frozen=True)
class Plan:
    """What is run of one model: rounds, concurrencies, tokens per answer."""

    model: str
    rounds: int
    concurrencies: tuple[int, ...]
    new_tokens: int


async def compare(plan: Plan, options: argparse.Namespace) -> Results:
    """Runs all servers of one model side by side, in turns."""
    folder, ports = folder_of(plan.model), [free_port() for _ in range(3)]
    peers = [ours(folder, ports[0], max(plan.concurrencies), options.ours), transformers_serve(folder, ports[1])]
    if plan.model == SMOLLM2 and has_llama_cpp(options.llama_python):
        peers.append(llama_cpp(options.llama_python, write_gguf(folder, cache_folder() / "benchmarks" / f"{SMOLLM2}.gguf"), ports[2]))
    results: Results = {}
    with ExitStack() as stack:
        servers = []
        for peer, port in zip(peers, ports, strict=False):
            server = stack.enter_context(running(peer))
            async with client_of(port) as client:
                await wait_ready(client, peer.ready_path)
                await turn(server, client, 2, Measured(), requests=1, new_tokens=4)
            servers.append((server, port))
        static = stack.enter_context(generator(folder))
        static.turn(Measured(), batch=1, new_tokens=2)
        for _ in range(plan.rounds):
            for concurrency in plan.concurrencies:
                for server, port in servers:
                    if server.peer.name == "llama-cpp-python" and concurrency > 8:
                        continue
                    into = results.setdefault((server.peer.name, concurrency), Measured())
                    async with client_of(port) as client:
                        await turn(server, client, concurrency, into, requests=2 if concurrency == 1 else 1, new_tokens=plan.new_tokens)
            static.turn(results.setdefault((GENERATE, 8), Measured()), batch=8, new_tokens=plan.new_tokens)
    return results


def ratio(results: Results, peer: str, concurrency: int) -> float:
    """Returns the median of the rounds' ratios, ours over a peer's."""
    pairs = zip(results[OURS, concurrency].throughputs, results[peer, concurrency].throughputs, strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)


def report(model: str, results: Results) -> None:
    print(f"\n{model}, float32")
    print(f"{'server':<20} {'c':>3} {'tokens/s':>9} {'ratio':>6} {'TTFT p50 ms':>12} {'gap p50 ms':>11} {'cpu ms/token':>13}")
    for (name, concurrency), got in sorted(results.items(), key=lambda item: (item[0][1], item[0][0] != OURS)):
        against = "" if name == OURS or (OURS, concurrency) not in results else f"{ratio(results, name, concurrency):.2f}"
        first, gap = (f"{statistics.median(times) * 1e3:.0f}" if times else "" for times in (got.first, got.gaps))
        processor = f"{got.processor / got.tokens * 1e3:.1f}" if got.processor else ""
        speed = statistics.median(got.throughputs)
        print(f"{name:<20} {concurrency:>3} {speed:>9.1f} {against:>6} {first:>12} {gap:>11} {processor:>13}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="SmolLM2 alone, one and eight clients")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=[SMOLLM2, QWEN], default=[SMOLLM2, QWEN])
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--llama-python", default=sys.executable, help="a Python that has llama_cpp.server")
    parser.add_argument("--ours", action="append", default=[], help="a further flag of modelyard-runtime, as --ours=--quantization=int8")
    options = parser.parse_args()
    models = [SMOLLM2] if options.quick else options.models
    concurrencies = tuple(sorted({8, *(c for c in options.concurrency if c <= 8 or not options.quick)}))
    ratios = {}
    for model in models:
        small = model == SMOLLM2
        plan = Plan(model, options.rounds if small else max(1, options.rounds - 1), concurrencies, options.new_tokens if small else 16)
        results = asyncio.run(compare(plan, options))
        report(model, results)
        ratios[model] = ratio(results, "transformers serve", 8)
    print(f"ratio {ratios.get(SMOLLM2, ratios[models[0]]):.2f}")


if __name__ == "__main__":
    main()
