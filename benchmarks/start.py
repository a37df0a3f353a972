"""How fast a model server starts: `--help`, import to listening, a tiny model ready.

    python benchmarks/start.py [--runs 5]

Bars: listening within 2 s, PyTorch not loaded for --help; the tiny model ready within 6 s. The fastest of the runs counts: what slows a
start down from outside is not the server's. Beside the wall clock stands the processor time, which other work on the machine hardly moves.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

LISTENING, READY = 2.0, 6.0
SERVER = [sys.executable, "-m", "modelyard_runtime.main", "serve"]


@dataclass(frozen=True)
class Start:
    """Seconds from the process's start."""

    listening: float
    ready: float
    processor: float


def help_seconds() -> tuple[float, bool]:
    """Returns how long --help takes, and whether PyTorch was imported for it."""
    began = time.monotonic()
    shown = subprocess.run(
        [*SERVER, "--help"], capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPROFILEIMPORTTIME": "1"}
    )
    return time.monotonic() - began, any(line.split("|")[-1].strip() == "torch" for line in shown.stderr.splitlines())


def start(cache: str) -> Start:
    """Starts a server of the tiny chat model, waits until it is ready, and ends it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.monotonic()
    process = subprocess.Popen(
        [*SERVER, "builtin://tiny-chat", "--port=0", "--metrics-port=0", "--host=127.0.0.1", f"--cache-dir={cache}", "--settle-time=0s"],
        stderr=subprocess.PIPE,
        text=True,
    )
    seen: dict[str, float] = {}
    assert process.stderr is not None
    for line in process.stderr:
        message = json.loads(line).get("message") if line.startswith("{") else None
        if message in {"listening", "ready"}:
            seen[message] = time.monotonic() - began
        if message == "ready":
            break
    process.terminate()
    process.communicate()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return Start(seen["listening"], seen["ready"], after.ru_utime + after.ru_stime - used.ru_utime - used.ru_stime)


def main() -> None:
    """Prints the figures; exits with 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    helps = [help_seconds() for _ in range(runs)]
    with tempfile.TemporaryDirectory() as cache:
        starts = [start(cache) for _ in range(runs)]
    listening, ready = min(one.listening for one in starts), min(one.ready for one in starts)
    torch = any(loaded for _, loaded in helps)
    print(f"--help              {min(seconds for seconds, _ in helps):5.2f} s   PyTorch {'loaded' if torch else 'not loaded'}")
    print(f"import to listening {listening:5.2f} s   bar {LISTENING:g} s")
    print(f"tiny model ready    {ready:5.2f} s   bar {READY:g} s   ({min(one.processor for one in starts):.2f} s of processor time)")
    sys.exit(torch or listening > LISTENING or ready > READY)


if __name__ == "__main__":
    main()
