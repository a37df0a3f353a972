"""What the quick start costs a user: seconds to the answer and memory, with an empty model cache and with the weights in it.

    python benchmarks/quickstart.py

Runs `make quickstart` twice. Bars: the second answer begins within 15 s of the command, and no run takes more than 2.5 GB: the sum over
all its processes of the memory that is theirs (proportional set size: what several share counts for each by its part), ten times a second.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

SECONDS, BYTES = 15.0, 2.5e9
REPOSITORY = Path(__file__).parent.parent


@dataclass(frozen=True)
class Run:
    """Seconds from the command to the end of the answer and of the command; bytes of all processes, and of the largest, at most."""

    answer: float
    whole: float
    memory: float
    largest: float


def sizes(command: psutil.Process) -> Iterator[float]:
    """Yields the bytes that each of the command's processes holds; one that has just ended holds none."""
    for process in [command, *command.children(recursive=True)]:
        try:
            yield float(process.memory_full_info().pss)
        except psutil.Error:
            continue


def quickstart(cache: str) -> Run:
    """Runs the quick start once. Raises CalledProcessError, with what it printed, when it fails."""
    began = time.monotonic()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        ["make", "quickstart"],
        cwd=REPOSITORY,
        env=os.environ | {"MODELYARD_CACHE_DIR": cache},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        out = process.stdout
        reader = threading.Thread(target=lambda: lines.extend((time.monotonic() - began, line) for line in out))
        reader.start()
        memory = largest = 0.0
        while process.poll() is None:
            held = list(sizes(psutil.Process(process.pid)))
            memory, largest = max(memory, sum(held)), max(largest, *held, 0.0)
            time.sleep(0.1)
        reader.join()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, "".join(line for _, line in lines))
    answer = next((at for at, line in lines if "Paris" in line), float("inf"))
    return Run(answer, time.monotonic() - began, memory, largest)


def main() -> None:
    """Prints the figures; exits with 1 when a bar is missed."""
    with tempfile.TemporaryDirectory() as cache:
        runs = {name: quickstart(cache) for name in ("empty cache", "weights there")}
    for name, run in runs.items():
        memory = f"memory {run.memory / 1e9:.2f} GB  largest process {run.largest / 1e9:.2f} GB"
        print(f"{name:14} answer {run.answer:5.1f} s  all {run.whole:5.1f} s  {memory}")
    print(f"bars           answer {SECONDS:5.1f} s, with the weights there   memory {BYTES / 1e9:.2f} GB")
    sys.exit(runs["weights there"].answer > SECONDS or max(run.memory for run in runs.values()) > BYTES)


if __name__ == "__main__":
    main()
