"""The other end of `worker`: a process that is asked whether a grammar compiles, and ended when it does not answer in time."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from typing import Any

import orjson

from modelyard_runtime.structured.worker import LENGTH

#: A process starts and reads the tokenizer in about a second; a busy machine gets more.
_START_SECONDS = 60.0
#: What the process needs of the environment: to find Python and its packages. No secret is among it.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Trial:
    """Asks a process of its own, one grammar at a time, from one thread at a time."""

    def __init__(self, tokenizer: str, vocabulary: int, eos: list[int], seconds: float):
        self._hello = {"tokenizer": tokenizer, "vocabulary": vocabulary, "eos": eos}
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def problem(self, grammar: str) -> str | None:
        """Returns why a grammar cannot be used; None when it can."""
        process = self._running()
        try:
            _send(process, {"grammar": grammar})
            return _read(process, self._seconds)
        except TimeoutError:
            self.close()
            return f"it took longer than {self._seconds:g} s to compile, which is the limit; make it simpler"
        except OSError:
            self.close()
            return "it needs too much memory to compile; make it simpler"

    def kill(self) -> None:
        """Ends the process from any thread; a question that it was asked is then answered by a problem."""
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """Ends the process; the next question starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelyard_runtime.structured.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # native code that runs out of memory says so there, at length
                env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
            )
            _send(self._process, self._hello)
            _read(self._process, _START_SECONDS)
        return self._process


def _send(process: subprocess.Popen[bytes], request: dict[str, Any]) -> None:
    assert process.stdin is not None
    data = orjson.dumps(request)
    process.stdin.write(LENGTH.pack(len(data)) + data)
    process.stdin.flush()


def _read(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    """Reads one answer. Raises TimeoutError, or OSError when there will be none."""
    deadline = time.monotonic() + seconds
    size = LENGTH.unpack(_exactly(process, LENGTH.size, deadline))[0]
    error: str | None = orjson.loads(_exactly(process, size, deadline))["error"]
    return error


def _exactly(process: subprocess.Popen[bytes], size: int, deadline: float) -> bytes:
    assert process.stdout is not None
    output, data = process.stdout.fileno(), bytearray()
    poll = select.poll()
    poll.register(output, select.POLLIN)
    while len(data) < size:
        left = deadline - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            raise TimeoutError
        chunk = os.read(output, size - len(data))
        if not chunk:
            raise OSError("the process has ended")
        data += chunk
    return bytes(data)
