"""Real servers on free ports, in this process, with the tiny built-in models."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvloop
from modelyard_runtime import hardware
from modelyard_runtime.errors import RuntimeFailed
from modelyard_runtime.serving.server import Signals, serve
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.resolve import resolve
from modelyard_runtime.sources.tiny import make_chat
from transformers import AutoTokenizer

PATIENCE = 60.0


def wait_until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Waits for a condition of another process or thread."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds} s: {what}")
        time.sleep(0.01)


@dataclass
class Running:
    """A server in a thread of this process."""

    name: str
    port: int
    private_port: int
    told: Callable[[], None]
    thread: threading.Thread
    outcome: list[RuntimeFailed | None]
    clients: ExitStack = field(default_factory=ExitStack)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def private_url(self) -> str:
        return f"http://127.0.0.1:{self.private_port}"

    def openai(self, *, strict: bool = False) -> openai.OpenAI:
        """Returns a client that is closed with the server; a ``strict`` one refuses answers that are not of OpenAI's shape."""
        own = {"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "_strict_response_validation": strict}
        return self.clients.enter_context(openai.OpenAI(**own))

    def metric(self, name: str, **labels: str) -> float:
        """Returns a sample's value, 0 when there is none."""
        for line in httpx.get(f"{self.private_url}/metrics").text.splitlines():
            if line.startswith(f"modelyard_{name}{{") and all(f'{key}="{value}"' in line for key, value in labels.items()):
                return float(line.rsplit(" ", 1)[1])
        return 0.0

    def progress(self) -> dict[str, Any]:
        return httpx.get(f"{self.private_url}/progress").json()

    def join(self) -> RuntimeFailed | None:
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive(), "the server did not end"
        return self.outcome[0]


@contextmanager
def running(settings: ServeSettings, *, wait: bool = True) -> Iterator[Running]:
    """Serves in a thread; ends it, drained or not, at the end."""
    signals: list[Signals] = []
    loops: list[asyncio.AbstractEventLoop] = []
    ports: list[tuple[int, int]] = []
    outcome: list[RuntimeFailed | None] = []
    listening = threading.Event()

    def listens(public: int, private: int) -> None:
        ports.append((public, private))
        listening.set()

    async def main() -> None:
        signals.append(Signals())
        loops.append(asyncio.get_running_loop())
        outcome.append(await serve(settings, signals[0], on_listening=listens))

    def run() -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    def tell(number: int = 15) -> None:
        loops[0].call_soon_threadsafe(signals[0], number)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert listening.wait(PATIENCE)
    server = Running(settings.served_name if settings.model else "", *ports[0], tell, thread, outcome)
    try:
        if wait:
            wait_until(lambda: not thread.is_alive() or httpx.get(f"{server.url}/ready").status_code == 200, "ready")
        yield server
    finally:
        server.clients.close()
        if thread.is_alive():
            tell(2)
            tell(2)
        server.join()


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def settings(cache_dir: Path) -> Callable[..., ServeSettings]:
    """Returns settings for a server of this test session."""

    def make(model: str | tuple[str, ...] = "builtin://tiny-chat", **more: Any) -> ServeSettings:
        own = {"cache_dir": cache_dir, "host": "127.0.0.1", "port": 0, "metrics_port": 0, "settle_time": "0s"}
        return ServeSettings(model=model, **own | more)

    return make


@pytest.fixture(scope="session")
def chat(settings: Callable[..., ServeSettings]) -> Iterator[Running]:
    with running(settings("builtin://tiny-chat")) as server:
        yield server


@pytest.fixture(scope="session")
def embed(settings: Callable[..., ServeSettings]) -> Iterator[Running]:
    with running(settings("builtin://tiny-embed")) as server:
        yield server


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer of builtin://tiny-chat."""
    folder = tmp_path_factory.mktemp("tokenizer")
    make_chat(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def agent(settings: Callable[..., ServeSettings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A server of random weights whose template knows tools and thinking."""
    from .agents import make_agent

    folder = tmp_path_factory.mktemp("weights") / "agent"
    folder.mkdir()
    make_agent(folder)
    with running(settings(f"file://{folder}")) as server:
        yield server


@pytest.fixture(scope="session")
def judges(settings: Callable[..., ServeSettings], cache_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One process with a bi-encoder, a cross-encoder, a classifier, and an encoder with prompts that it does not pool."""
    from .tiny_models import make, sentence_files

    tiny = resolve("builtin://tiny-embed", cache_dir=cache_dir, progress=lambda step: None)
    folder = tmp_path_factory.mktemp("judges")
    make(tiny, folder / "reranker", "bert", classes={0: "LABEL_0"})
    make(tiny, folder / "moods", "bert", classes={0: "good", 1: "bad", 2: "odd"})
    make(tiny, folder / "prompted", "bert")
    prompts = {"query": "the query ", "passage": "the passage ", "default": "word "}
    pooling = {"pooling_mode_mean_tokens": True, "include_prompt": False}
    sentence_files(folder / "prompted", pooling=pooling, prompts=prompts, default_prompt_name="default")
    sources = tuple(f"{name}=file://{folder / name}" for name in ("reranker", "moods", "prompted"))
    made = settings("builtin://tiny-embed")
    with running(made.model_copy(update={"model": (*made.model, *sources)})) as server:
        yield server


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[Running]]:
    """Serves settings, for fixtures of the folders below that last a session."""
    return running


@pytest.fixture
def executors(monkeypatch: pytest.MonkeyPatch) -> dict[str, int | None]:
    """Threads of the executors that are made from now on, on what looks like twelve cores, by what those threads are called."""
    made: dict[str, int | None] = {}
    make = ThreadPoolExecutor.__init__

    def noted(self: ThreadPoolExecutor, max_workers: int | None = None, thread_name_prefix: str = "", *more: Any) -> None:
        made[thread_name_prefix] = max_workers
        make(self, max_workers, thread_name_prefix, *more)

    monkeypatch.setattr(ThreadPoolExecutor, "__init__", noted)
    monkeypatch.setattr(hardware, "usable_cores", lambda: 12)
    return made


@pytest.fixture
def start(settings: Callable[..., ServeSettings]) -> Iterator[Callable[..., Running]]:
    """Starts servers of a test's own."""
    with ExitStack() as stack:
        yield lambda model="builtin://tiny-chat", *, wait=True, **more: stack.enter_context(running(settings(model, **more), wait=wait))


@pytest.fixture
def command(tmp_path: Path, cache_dir: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `modelyard-runtime …` as a process of its own, its termination log in ``tmp_path / "termination"``."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        own = {
            "MODELYARD_TERMINATION_LOG": str(tmp_path / "termination"),
            "MODELYARD_CACHE_DIR": str(cache_dir),
            "MODELYARD_HOST": "127.0.0.1",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "modelyard_runtime.main", *arguments],
            env=os.environ | own | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def logged(process: subprocess.Popen[str], message: str) -> dict[str, Any]:
    """Reads the process's log up to a message and returns its line."""
    assert process.stderr is not None
    for line in process.stderr:
        record = json.loads(line) if line.startswith("{") else {}
        if record.get("message") == message:
            return record
    raise AssertionError(f"the process ended without logging {message!r}")
