"""The other end of `worker`: a process that is asked whether a grammar compiles, and ended when it does not answer in time."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import orjson

from modelyard_runtime import framing

#: A process starts and reads the tokenizer in about a second; a busy machine gets more.
_START_SECONDS = 60.0
_MOST_BYTES = 1 << 20
#: What ends the process need not be the grammar it was asked about; if it ends again, in a new process, it is.
_ATTEMPTS = 2
#: What the process needs of the environment: to find Python and its packages. No secret is among it.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LANG", "LC_ALL")


class Trial:
    """Asks a process of its own, one grammar at a time, from one thread at a time."""

    def __init__(self, tokenizer: str, vocabulary: int, eos: list[int], seconds: float):
        self._hello: dict[str, Any] = {"tokenizer": tokenizer, "vocabulary": vocabulary, "eos": eos}
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._over = False

    def problem(self, grammar: str) -> str | None:
        """Returns why a grammar cannot be used; None when it can. Raises TimeoutError when that was not found out in time."""
        for _ in range(_ATTEMPTS):
            try:
                return self._ask(grammar)
            except TimeoutError:
                self.close()
                raise
            except OSError:
                self.close()
            if self._over:
                return "the model is being unloaded"
        return "it needs too much memory to compile; make it simpler"

    def _ask(self, grammar: str) -> str | None:
        process = self._running()
        framing.send(process, orjson.dumps({"grammar": grammar}), self._seconds)
        return _read(process, self._seconds)

    def kill(self) -> None:
        """Ends the process from any thread, for good; a question that it was asked is then answered by a problem."""
        self._over = True
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
            framing.send(self._process, orjson.dumps(self._hello), _START_SECONDS)
            _read(self._process, _START_SECONDS)
        return self._process


def _read(process: subprocess.Popen[bytes], seconds: float) -> str | None:
    error: str | None = orjson.loads(framing.receive(process, seconds, _MOST_BYTES))["error"]
    return error
