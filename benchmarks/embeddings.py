"""The runtime's embeddings beside those that users have today, over HTTP, in one run, on the same weights and texts.

The others are sentence-transformers' `encode` called by a FastAPI server, and infinity-emb. Each is installed, pinned, into a virtual
environment of its own under the cache, as they want other versions of libraries than the runtime. All servers run at once and take turns,
so that a busy minute of the machine does not fall on one alone. Texts are of mixed lengths, one a request, and no two are equal.

Prints a table, and last a line `ratio <texts per second, ours over sentence-transformers'> <ours over infinity's>`.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from socket import socket

import aiohttp
import numpy as np
import psutil
from modelyard_runtime.sources.resolve import resolve

ROOT = Path(__file__).parent.parent
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
_TEXT = (
    "the of and to in a is that for it as was with be by on not he his but at are this have from or had an they which one you were all "
    "her she there would their we him been has when who will no more if out so up said what its about than into them can only other time "
    "new some could these two may first then do any like my now over such our man me even most made after also well must years people "
    "water history language river mountain computer science music window station market evening letter question answer weather garden"
)
WORDS = _TEXT.split()

ENCODE = """
import sys
from fastapi import FastAPI
from pydantic import BaseModel
from sentence_transformers import SentenceTransformer
import uvicorn

model = SentenceTransformer(sys.argv[1], device="cpu")
app = FastAPI()

class Body(BaseModel):
    model: str
    input: list[str]

@app.get("/ready")
def ready():
    return {}

@app.post("/v1/embeddings")
DEF embeddings(body: Body):
    vectors = model.encode(body.input, show_progress_bar=False)
    return {"data": [{"index": index, "embedding": vector.tolist()} for index, vector in enumerate(vectors)]}

uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
"""


@dataclass
class Server:
    """A way to serve a folder of weights, and what its answers took; seconds."""

    name: str
    command: list[str]
    url: str
    ready: str
    process: subprocess.Popen[bytes] | None = None
    texts: int = 0
    seconds: float = 0.0
    processor: float = 0.0
    latencies: list[float] = field(default_factory=list)

    @property
    def throughput(self) -> float:
        return self.texts / self.seconds

    def processor_seconds(self) -> float:
        assert self.process is not None
        main = psutil.Process(self.process.pid)
        return sum(sum(one.cpu_times()[:2]) for one in (main, *main.children(recursive=True)))


def environment(cache: Path, name: str, *packages: str) -> Path:
    """Makes a virtual environment, once; returns its folder of programs. PyTorch comes first, so that nothing else chooses its build."""
    folder = cache / "benchmarks" / name
    done = folder / f"{'-'.join(packages)}.done".replace("/", "_")
    if not done.is_file():
        print(f"installing {' '.join(packages)} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, TORCH], check=True)
        subprocess.run([*pip, TORCH, *packages], check=True)
        done.touch()
    return folder / "bin"


def servers(folder: Path, cache: Path, scratch: Path, ports: list[int], handler: str) -> list[Server]:
    sentence = environment(cache, "sentence-transformers", "sentence-transformers==6.2.0", "fastapi==0.165.0", "uvicorn[standard]==0.54.0")
    infinity = environment(cache, "infinity", "infinity-emb[server,torch]==0.0.78")
    script = scratch / "encode.py"
    script.write_text(ENCODE.replace("DEF", handler))
    urls = [f"http://127.0.0.1:{port}" for port in ports]
    ours = ["-m", "modelyard_runtime.main", "serve", f"--model=file://{folder}", "--served-model-name=minilm", "--embedding-cache-bytes=0"]
    ours += ["--host=127.0.0.1", f"--port={ports[0]}", "--metrics-port=0", "--log-level=warning", "--dtype=float32"]
    theirs = ["v2", "--model-id", str(folder), "--served-model-name", "minilm", "--device", "cpu", "--dtype", "float32"]
    theirs += ["--engine", "torch", "--host", "127.0.0.1", "--port", str(ports[2]), "--log-level", "error"]
    return [
        Server("modelyard", [sys.executable, *ours], f"{urls[0]}/v1/embeddings", f"{urls[0]}/ready"),
        Server(
            "sentence-transformers",
            [str(sentence / "python"), str(script), str(folder), str(ports[1])],
            f"{urls[1]}/v1/embeddings",
            f"{urls[1]}/ready",
        ),
        Server("infinity", [str(infinity / "infinity_emb"), *theirs], f"{urls[2]}/embeddings", f"{urls[2]}/health"),
    ]


@contextmanager
def running(server: Server) -> Iterator[None]:
    """Runs a server, its output in a file that is shown when it ends by itself."""
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    with tempfile.TemporaryFile("w+") as log:
        server.process = subprocess.Popen(server.command, stdout=log, stderr=subprocess.STDOUT, env=os.environ | quiet)
        try:
            yield
        finally:
            ended = server.process.poll()
            server.process.terminate()
            try:
                server.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()
            if ended is not None:
                log.seek(0)
                print(f"{server.name} ended with {ended}:\n{log.read()[-4000:]}", file=sys.stderr)


async def wait_ready(client: aiohttp.ClientSession, url: str, limit: float = 180) -> None:
    """Returns once the server answers 200. Raises TimeoutError after ``limit`` seconds."""
    async with asyncio.timeout(limit):
        while True:
            try:
                async with client.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientConnectionError:
                pass
            await asyncio.sleep(0.2)


class Texts:
    """Texts of mixed lengths, log-normal with a median of 28 words and a few of 200, no two equal, the same in each run."""

    def __init__(self) -> None:
        self._random = random.Random(7)

    def some(self, count: int) -> list[str]:
        return [self._one() for _ in range(count)]

    def _one(self) -> str:
        words = min(200, max(2, round(self._random.lognormvariate(3.33, 0.8))))
        return " ".join(self._random.choice(WORDS) for _ in range(words)) + f" {self._random.randrange(10**6)}"


async def embed(client: aiohttp.ClientSession, server: Server, text: str) -> list[float]:
    async with client.post(server.url, json={"model": "minilm", "input": [text]}) as response:
        answer = await response.json()
        if response.status != 200:
            raise RuntimeError(f"{server.name}: {response.status} {answer}")
        vector: list[float] = answer["data"][0]["embedding"]
        return vector


async def drain(client: aiohttp.ClientSession, server: Server, texts: list[str], clients: int) -> None:
    """Has ``clients`` clients send the texts, each its next one when the last is answered."""
    left = iter(texts)

    async def one() -> None:
        for text in left:
            started = time.perf_counter()
            await embed(client, server, text)
            server.latencies.append(time.perf_counter() - started)

    processor, started = server.processor_seconds(), time.perf_counter()
    await asyncio.gather(*(one() for _ in range(clients)))
    server.seconds += time.perf_counter() - started
    server.processor += server.processor_seconds() - processor
    server.texts += len(texts)


async def compare(those: list[Server], arguments: argparse.Namespace) -> None:
    texts = Texts()
    timeout, connector = aiohttp.ClientTimeout(total=300), aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as client:
        for server in those:
            await wait_ready(client, server.ready)
        sample = texts.some(4)
        vectors = [np.array([await embed(client, server, text) for text in sample]) for server in those]
        for server, own in zip(those, vectors, strict=True):
            difference = float(np.abs(own - vectors[0]).max())
            if difference > 1e-4:
                raise SystemExit(f"{server.name} gives other vectors: they differ by {difference:.2g}")
        for server in those:  # unmeasured
            await drain(client, Server(server.name, [], server.url, "", server.process), texts.some(arguments.clients), arguments.clients)
        for turn in range(arguments.turns):
            batch = texts.some(arguments.texts)
            for server in those[turn % len(those) :] + those[: turn % len(those)]:
                await drain(client, server, batch, arguments.clients)


def report(those: list[Server]) -> None:
    print(f"{'server':<22} {'texts':>6} {'texts/s':>8} {'p50 ms':>8} {'p99 ms':>8} {'processor ms/text':>18}")
    for server in those:
        ordered = statistics.quantiles(server.latencies, n=100)
        print(
            f"{server.name:<22} {server.texts:>6} {server.throughput:>8.1f} {ordered[49] * 1e3:>8.0f} {ordered[98] * 1e3:>8.0f} "
            f"{server.processor / server.texts * 1e3:>18.1f}"
        )


def free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=512, help="texts a turn")
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--serial", action="store_true", help="let the FastAPI server encode one request after another, not on its threads")
    arguments = parser.parse_args()
    cache = Path(os.environ.get("MODELYARD_CACHE_DIR", Path.home() / ".cache" / "modelyard"))
    folder = resolve("builtin://all-minilm-l6-v2", cache_dir=cache, progress=lambda step: None)
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        ports = [free_port() for _ in range(3)]
        those = servers(folder, cache, Path(scratch), ports, "async def" if arguments.serial else "def")
        for server in those:
            stack.enter_context(running(server))
        asyncio.run(compare(those, arguments))
    report(those)
    ours, sentence, infinity = (server.throughput for server in those)
    print(f"ratio {ours / sentence:.2f} {ours / infinity:.2f}")


if __name__ == "__main__":
    main()
