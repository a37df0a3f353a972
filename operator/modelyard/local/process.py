"""One run of a pod's container: a process group, its log, and its end."""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from io import FileIO
from pathlib import Path

from modelyard.local import launch

_LOG_BYTES = 8 << 20
_LINE_BYTES = 64 << 10
_TAIL_LINES = 20


class LogFile:
    """A log that keeps its newest megabytes: at the limit it becomes ``….log.1``, which replaces the one before.

    On a full disk the log gives way, never the process, which waits until its lines are read; ``tail`` has the last ones all the same.
    """

    def __init__(self, path: Path, limit: int = _LOG_BYTES):
        self.path = path
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._limit = limit
        self._file: FileIO | None = None
        with contextlib.suppress(OSError):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(self, line: bytes) -> None:
        """Appends a line."""
        self.tail.append(line.decode("utf-8", "replace").rstrip("\n"))
        with contextlib.suppress(OSError):
            if self._file is not None and self._file.tell() + len(line) > self._limit:
                self.close()
                os.replace(self.path, self.path.with_name(f"{self.path.name}.1"))
            if self._file is None:
                self._file = self.path.open("ab", buffering=0)
            self._file.write(line)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()
        self._file = None


class Process:
    """A running process. Made by `start`; `wait` must be awaited to the end."""

    def __init__(self, child: asyncio.subprocess.Process, leash: int, pump: asyncio.Task[None]):
        self.pid = child.pid
        self.started_at = time.time()
        self._child, self._leash, self._pump = child, leash, pump

    @classmethod
    async def start(cls, command: Sequence[str], environment: Mapping[str, str], log: LogFile) -> "Process":
        """Starts a command in a session of its own: a terminal's Ctrl-C is the parent's to handle. Raises OSError.

        The log's pipe is our own. asyncio takes a process for ended only when its pipes are closed, and what the process has
        started may hold them open.
        """
        watched, leash = os.pipe()
        output, written = os.pipe()
        pump = asyncio.create_task(_pump(output, log), name="log")
        try:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-I", "-S", launch.__file__, str(os.getpid()), str(watched), "--", *command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                env=dict(environment),
                pass_fds=(watched,),
                start_new_session=True,
            )
        except BaseException:
            os.close(leash)
            raise
        finally:
            os.close(watched)
            os.close(written)
        return cls(child, leash, pump)

    def terminate(self) -> None:
        """Asks it to end."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it."""
        self._signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Returns the exit code as a container has it, 128 + the signal's number after a signal, when its whole group is gone."""
        try:
            code = await asyncio.shield(self._child.wait())
        finally:
            self._let_go()
        await self._pump
        return code if code >= 0 else 128 - code

    def _let_go(self) -> None:
        """Closes the leash: what is left of the process group ends."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1

    def _signal(self, number: int) -> None:
        if self._child.returncode is None:
            self._child.send_signal(number)


async def _pump(descriptor: int, log: LogFile) -> None:
    """Copies lines into the log until nobody holds the pipe's other end."""
    reader = asyncio.StreamReader(limit=_LINE_BYTES)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(descriptor, "rb"))
    try:
        while line := await _line(reader):
            log.write(line)
    finally:
        transport.close()


async def _line(reader: asyncio.StreamReader) -> bytes:
    """Returns a line with its end, a part of one that is too long, or nothing at the end."""
    try:
        return await reader.readuntil()
    except asyncio.LimitOverrunError as overrun:
        return await reader.readexactly(min(overrun.consumed, _LINE_BYTES)) + b"\n"
    except asyncio.IncompleteReadError as end:
        return end.partial
