"""A process of our own that answers what could hang or fill the memory: the server's end of `worker`."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress

import orjson

from modelyard_runtime import framing
from modelyard_runtime.worker import OVERRAN, Message

#: A process starts in about a second; a busy machine gets more.
_START_SECONDS = 60.0
#: Waited for an answer, in the time on the processor that it may take: the machine has others to serve.
_PATIENCE = 5
#: What ends a process need not be what it was asked; if it ends again, in a new process, it is.
_ATTEMPTS = 2
#: What a process needs of the environment: to find Python and its packages, and to tell the time. No secret is among it.
_ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "TZ")


#: Processes that nobody asks yet, by what they run.
_early: dict[str, subprocess.Popen[bytes]] = {}
_early_lock = threading.Lock()


def start_early(module: str) -> None:
    """Starts the process that the next `Child` of a module will ask: it imports what it needs while the server does other things.

    Where that fails nothing is lost; the child will say so.
    """
    with _early_lock:
        if module not in _early:
            with suppress(OSError):
                _early[module] = _spawn(module)


def end_early() -> None:
    """Ends what was started early and not asked."""
    with _early_lock:
        unused = [_early.popitem()[1] for _ in range(len(_early))]
    for process in unused:
        process.kill()
        process.communicate()


class ChildFailed(Exception):
    """There is no answer.

    ├── Overran       the question took more time on the processor than it may
    ├── Ended         the question ended the process, and the next one: for want of memory, most likely
    └── Unreachable   the process does not start, or does not compute: no fault of the question
    """


class Overran(ChildFailed):
    """The question took more time on the processor than it may."""


class Ended(ChildFailed):
    """The question ended the process, and the next one."""


class Unreachable(ChildFailed):
    """The process does not start, or does not compute; another one may, later."""


class Child:
    """Runs ``python -m module`` from the first question on, and again when it has ended. One thread at a time asks and closes.

    ``hello`` is its first message; an answer has ``most_bytes`` at most. The stderr of a ``quiet`` one goes nowhere.
    """

    def __init__(self, module: str, hello: Message, *, most_bytes: int, quiet: bool = False):
        self.process: subprocess.Popen[bytes] | None = None
        self._module = module
        self._hello = orjson.dumps(hello)
        self._most_bytes = most_bytes
        self._stderr = subprocess.DEVNULL if quiet else None
        self._over = False

    def ask(self, question: Message, seconds: float) -> Message:
        """Returns the answer, which may take ``seconds`` on the processor. Raises ChildFailed."""
        message = orjson.dumps({"seconds": seconds, "question": question})
        failure: ChildFailed = Unreachable("it is closed")
        for _ in range(_ATTEMPTS):
            process = self._running()
            try:
                return self._exchange(process, message, seconds * _PATIENCE)
            except TimeoutError:
                self.close()
                failure = Unreachable(f"it did not answer within {seconds * _PATIENCE:g} s")
            except OSError:
                if self.close() == -OVERRAN:
                    raise Overran(f"it took longer than {seconds:g} s") from None
                failure = Unreachable("it is closed") if self._over else Ended("it ended the process")
        raise failure

    def kill(self) -> None:
        """Ends the process from any thread, for good: who waits for an answer gets Unreachable."""
        self._over = True
        process = self.process
        if process is not None:
            process.kill()

    def close(self) -> int | None:
        """Ends the process and returns its exit status; the next question starts another. Returns None when there was none."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.kill()
        process.communicate()
        return process.returncode

    def _running(self) -> subprocess.Popen[bytes]:
        """Returns the process, started where there is none. Raises Unreachable."""
        if self.process is None or self.process.poll() is not None:
            self.close()
            if self._over:
                raise Unreachable("it is closed")
            try:
                self.process = self._start()
                self._exchange(self.process, self._hello, _START_SECONDS)
            except OSError as error:
                self.close()
                raise Unreachable(f"it does not start: {error or type(error).__name__}") from error
        return self.process

    def _start(self) -> subprocess.Popen[bytes]:
        if self._stderr is not None:
            return _spawn(self._module, self._stderr)
        with _early_lock:
            early = _early.pop(self._module, None)
        if early is not None and early.poll() is not None:
            early.communicate()
            early = None
        return early or _spawn(self._module)

    def _exchange(self, process: subprocess.Popen[bytes], message: bytes, seconds: float) -> Message:
        """Sends a message and returns the answer. Raises TimeoutError, or OSError when there will be none."""
        framing.send(process, message, seconds)
        answer: Message = orjson.loads(framing.receive(process, seconds, self._most_bytes))
        return answer


def _spawn(module: str, stderr: int | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(  # noqa: S603 - a module of ours
        [sys.executable, "-P", "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        process_group=0,  # a terminal's Ctrl-C goes to the server alone, which ends this process
    )
