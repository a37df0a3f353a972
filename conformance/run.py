"""Other people's clients and tools against a server of tiny models.

    python conformance/run.py [--cases 10000] [--only node langchain schemathesis]

node           the openai package for Node, every answer checked against a schema
langchain      langchain-openai's standard tests
schemathesis   requests made from /openapi.json: no 5xx, no answer that the document does not describe

The tools live in environments of their own below .cache; Node comes from Debian where it is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import runpy
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "conformance"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
START_SECONDS = 120


def main() -> None:
    options = _options()
    failed = []
    with _server() as url:
        for name in options.only:
            print(f"\n-------- {name}", flush=True)
            started = time.monotonic()
            code = SUITES[name](url, options.cases)
            print(f"{name}: {'passed' if code == 0 else 'FAILED'} in {time.monotonic() - started:.0f} s", flush=True)
            if code:
                failed.append(name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def node(url: str, _cases: int) -> int:
    for tool, package in (("node", "nodejs"), ("npm", "npm")):
        _need(tool, package)
    folder = CACHE / "node"
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "check.mjs"):
        shutil.copy(HERE / "node" / name, folder)
    subprocess.run(["npm", "install", "--silent", "--no-audit", "--no-fund"], cwd=folder, check=True)
    return _run(["node", "--test", "check.mjs"], url, folder)


def langchain(url: str, _cases: int) -> int:
    command = ["-m", "pytest", "-q", "-c", str(HERE / "pytest.ini"), "-p", "no:cacheprovider", str(HERE / "test_langchain.py")]
    return _run([str(_python()), *command], url, HERE)


#: Cases asked for over those wanted: operations that take little run out of different requests.
_SPARE = 1.15


def schemathesis(url: str, cases: int) -> int:
    document = json.load(urllib.request.urlopen(f"{url}/openapi.json"))
    # Of an operation that takes nothing there is one case.
    varied = [op for path in document["paths"].values() for op in path.values() if "requestBody" in op or "parameters" in op]
    command = [str(_python().with_name("schemathesis")), "run", f"{url}/openapi.json", "--checks", CHECKS, "--phases", "fuzzing"]
    more = ["-n", str(math.ceil(_SPARE * cases / len(varied))), "--workers", "2", "--continue-on-failure"]
    return _run([*command, *more], url, CACHE, SCHEMATHESIS_HOOKS="hooks", PYTHONPATH=str(HERE))  # it leaves a folder where it runs


SUITES: dict[str, Callable[[str, int], int]] = {"node": node, "langchain": langchain, "schemathesis": schemathesis}


def _run(command: list[str], url: str, folder: Path, **more: str) -> int:
    return subprocess.run(command, cwd=folder, env={**os.environ, "MODELYARD_URL": url, **more}, check=False).returncode


def _python() -> Path:
    """Returns the interpreter of the tools' environment, made when it is missing or older than its requirements."""
    python, wanted = CACHE / "venv" / "bin" / "python", HERE / "requirements.txt"
    stamp = CACHE / "venv" / "requirements.txt"
    if not stamp.is_file() or stamp.read_text() != wanted.read_text():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(CACHE / "venv")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "-r", str(wanted)], check=True)
        shutil.copy(wanted, stamp)
    return python


def _need(tool: str, package: str) -> None:
    if shutil.which(tool) is None:
        print(f"installing {package}", file=sys.stderr)
        subprocess.run(["apt-get", "install", "-y", "-qq", "--no-install-recommends", package], check=True, stdout=subprocess.DEVNULL)


@contextlib.contextmanager
def _server() -> Iterator[str]:
    """Serves until the end of the block."""
    port, private = _free_port(), _free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "modelyard_runtime.main", "serve", f"--catalogue={HERE / 'models.yaml'}", "--host=127.0.0.1"]
        command += [f"--model=ears=file://{_ears(Path(folder))}"]
        log = Path(folder, "log")
        with log.open("wb") as out:
            more = [f"--port={port}", f"--metrics-port={private}", f"--cache-dir={folder}", "--log-level=warning"]
            process = subprocess.Popen([*command, *more], stdout=out, stderr=out)
        try:
            _wait(f"http://127.0.0.1:{port}/ready", process, log)
            yield f"http://127.0.0.1:{port}"
            if process.poll() is not None:
                sys.exit(f"the server ended:\n{log.read_text()[-4000:]}")
        finally:
            process.terminate()
            process.wait()


def _ears(folder: Path) -> Path:
    """Returns a new model of speech in the folder, with random weights."""
    tests = runpy.run_path(str(HERE.parent / "tests" / "runtime" / "audio" / "conftest.py"))
    made: Path = tests["make_whisper"](folder / "ears", languages=("en", "de"))
    return made


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url)
            return
        time.sleep(0.2)
    sys.exit(f"the server did not become ready:\n{log.read_text()[-4000:]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=10_000, help="requests that schemathesis makes, at least about (default 10000)")
    parser.add_argument("--only", nargs="+", choices=SUITES, default=list(SUITES), help="run these alone")
    return parser.parse_args()


if __name__ == "__main__":
    main()
