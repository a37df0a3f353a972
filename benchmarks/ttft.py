"""Time to first token of a short chat request, alone and while a prompt of 2,000 tokens is read: SmolLM2 over HTTP, streamed.

Idle and loaded turns take turns, so that a busy minute of the machine does not fall on one alone. A short request counts as loaded only if
it began and ended while the long prompt was being read. Prompts differ from each other, so that none is found in the prefix cache.
Prints both medians, the time that the long prompt took, and last a line `ratio <loaded over idle>`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from modelyard_runtime.sources.resolve import resolve

WORDS = "river stone lamp window garden bread winter letter music horse silver market bridge candle forest paper clock island".split()  # noqa: SIM905
MODEL = "smollm2"
#: SmolLM2's tokens for a word of the list and the space before it.
TOKENS_PER_WORD = 1.1


@dataclass
class Times:
    """Seconds to the first token."""

    idle: list[float] = field(default_factory=list)
    loaded: list[float] = field(default_factory=list)
    long: list[float] = field(default_factory=list)


def text(words: int, chance: random.Random) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words))


async def first_token(client: httpx.AsyncClient, prompt: str) -> float:
    """Returns the seconds until the first piece of the answer's text."""
    body = {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": 2, "temperature": 0, "stream": True}
    started = time.perf_counter()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"content":""' not in line and '"content"' in line:
                return time.perf_counter() - started
    raise RuntimeError("the answer had no text")


async def idle_turn(client: httpx.AsyncClient, times: Times, chance: random.Random, count: int) -> None:
    for _ in range(count):
        times.idle.append(await first_token(client, text(12, chance)))


async def loaded_turn(client: httpx.AsyncClient, times: Times, chance: random.Random, tokens: int) -> None:
    """Sends short requests one after another for as long as one long prompt is read."""
    long = asyncio.create_task(first_token(client, text(int(tokens / TOKENS_PER_WORD), chance)))
    await asyncio.sleep(0.3)  # it is being read by now
    while not long.done():
        took = await first_token(client, text(12, chance))
        if not long.done():
            times.loaded.append(took)
        await asyncio.sleep(chance.random() * 0.2)
    times.long.append(await long)


def command(folder: Path, port: int, more: list[str]) -> list[str]:
    serve = [sys.executable, "-m", "modelyard_runtime.main", "serve", f"--model=file://{folder}", f"--served-model-name={MODEL}"]
    return [*serve, "--dtype=float32", "--host=127.0.0.1", f"--port={port}", "--metrics-port=0", "--log-level=warning", *more]


@contextmanager
def server(arguments: list[str]) -> Iterator[None]:
    process = subprocess.Popen(arguments)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@asynccontextmanager
async def client_of(port: int) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=300, trust_env=False) as client:
        async with asyncio.timeout(180):
            while not await ready(client):  # noqa: ASYNC110 - another process
                await asyncio.sleep(0.2)
        yield client


async def ready(client: httpx.AsyncClient) -> bool:
    try:
        return (await client.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def measure(port: int, arguments: argparse.Namespace) -> Times:
    times, chance = Times(), random.Random(arguments.seed)
    async with client_of(port) as client:
        for _ in range(3):
            await first_token(client, text(12, chance))
        for _ in range(arguments.turns):
            await idle_turn(client, times, chance, arguments.idle)
            await loaded_turn(client, times, chance, arguments.tokens)
    return times


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--idle", type=int, default=6, help="short requests of an idle turn")
    parser.add_argument("--tokens", type=int, default=2000, help="length of the long prompt")
    parser.add_argument("--seed", type=int, default=1)
    arguments, more = parser.parse_known_args()
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    folder = resolve("builtin://smollm2-135m-instruct", cache_dir=cache, progress=lambda step: None)
    port = free_port()
    with server(command(folder, port, more)):
        times = asyncio.run(measure(port, arguments))
    idle, loaded = statistics.median(times.idle), statistics.median(times.loaded)
    print(f"idle   TTFT p50 {idle * 1e3:7.0f} ms over {len(times.idle)} requests")
    print(f"loaded TTFT p50 {loaded * 1e3:7.0f} ms over {len(times.loaded)} requests")
    print(f"long   TTFT p50 {statistics.median(times.long) * 1e3:7.0f} ms over {len(times.long)} prompts of {arguments.tokens} tokens")
    print(f"ratio {loaded / idle:.2f}")


if __name__ == "__main__":
    main()
