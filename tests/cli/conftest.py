"""`modelyard` as its users run it: a process, with the real runtime behind it."""

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-m", "modelyard.cli.main"]
PATIENCE = 100.0

MANIFEST = """\
apiVersion: modelyard.dev/v1alpha1
kind: InferenceModel
metadata: {name: NAME}
spec:
  model: {source: "builtin://tiny-chat"}
  engine: {maxConcurrentSequences: 2, maxModelLength: 512}
"""


def manifest(name: str = "tiny", more: str = "") -> str:
    return MANIFEST.replace("NAME", name) + more


class Cli:
    """Runs commands against one state directory."""

    def __init__(self, folder: Path, cache: Path):
        self.folder = folder
        own = {"MODELYARD_STATE_DIR": str(folder / "state"), "MODELYARD_CACHE_DIR": str(cache), "TERM": "xterm", "COLUMNS": "140"}
        self.env = {name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")} | own

    def run(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments],
            capture_output=True,
            text=True,
            env=self.env,
            cwd=self.folder,
            input=stdin,
            timeout=PATIENCE,
            check=False,
        )

    def start(self, *arguments: str, **streams: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*COMMAND, *arguments], env=self.env, cwd=self.folder, start_new_session=True, **streams)

    def write(self, name: str, text: str) -> Path:
        """Writes as editors do: the file is replaced."""
        path = self.folder / name
        path.with_suffix(".new").write_text(text)
        return path.with_suffix(".new").replace(path)


class Up:
    """A running `modelyard up` whose output is collected."""

    def __init__(self, process: subprocess.Popen[bytes], descriptor: int):
        self.process, self._descriptor, self.text = process, descriptor, ""

    def until(self, condition: Callable[[str], bool] | str) -> str:
        """Reads until the output of this instance fulfils the condition, or contains a text, and returns it."""
        met = (lambda text: condition in text) if isinstance(condition, str) else condition
        end = time.monotonic() + PATIENCE
        while not met(self.text):
            assert time.monotonic() < end, self.text
            if select.select([self._descriptor], [], [], 1.0)[0] and not self._read():
                assert met(self.text), f"ended with {self.process.wait()}: {self.text}"
                break
        return self.text

    def forget(self) -> None:
        """Forgets what was printed, so that `until` looks at what comes."""
        self.text = ""

    def interrupt(self) -> None:
        self.process.send_signal(signal.SIGINT)

    def wait(self) -> int:
        """Reads to the end and returns the exit code."""
        while self._read():
            pass
        return self.process.wait(PATIENCE)

    def _read(self) -> bool:
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # the other end of a terminal is closed
            return False
        self.text += data.decode("utf-8", "replace")
        return bool(data)


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def cli(tmp_path: Path, cache: Path) -> Cli:
    return Cli(tmp_path, cache)


@pytest.fixture
def up(cli: Cli) -> Iterator[Callable[..., Up]]:
    """Starts `modelyard up`, in a terminal when asked to, and sees to its end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: str, terminal: bool = False) -> Up:
            reading, writing = os.openpty() if terminal else os.pipe()
            stack.callback(os.close, reading)
            process = cli.start("up", *arguments, stdin=subprocess.DEVNULL, stdout=writing, stderr=writing)
            os.close(writing)
            stack.callback(process.wait, PATIENCE)
            stack.callback(process.kill)
            return Up(process, reading)

        yield start


def descendants(pid: int) -> list[int]:
    """Returns the living descendants of a process, by the kernel's lists."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    direct = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [*direct, *(deeper for child in direct for deeper in descendants(child))]


def until_gone(pids: list[int], seconds: float = 30) -> None:
    """Waits for the end of processes that are not ours, by the kernel's own notice."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError), os.fdopen(os.pidfd_open(pid)) as watched:
            assert select.select([watched], [], [], seconds)[0], f"process {pid} is still there"


@pytest.fixture
def processes() -> tuple[Callable[[int], list[int]], Callable[[list[int]], None]]:
    return descendants, until_gone
