"""Messages to and from a process of our own: their length, 4 bytes, goes before them.

A process reads and writes plainly, for its pipes are its life; the server, on the other end, waits for it no longer than it says.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import time
from collections.abc import Iterator
from typing import IO, BinaryIO

_LENGTH = struct.Struct("<I")


def messages(stream: BinaryIO) -> Iterator[bytes]:
    """Yields messages until the stream ends."""
    while head := stream.read(_LENGTH.size):
        yield stream.read(_LENGTH.unpack(head)[0])


def write(stream: BinaryIO, message: bytes) -> None:
    """Writes a message."""
    stream.write(_LENGTH.pack(len(message)) + message)
    stream.flush()


def send(process: subprocess.Popen[bytes], message: bytes, seconds: float) -> None:
    """Writes a message. Raises TimeoutError when the process does not take it in time, OSError when it has ended."""
    left, stdin = memoryview(_LENGTH.pack(len(message)) + message), _pipe(process.stdin)
    os.set_blocking(stdin, False)
    deadline = time.monotonic() + seconds
    while left:
        _wait(stdin, select.POLLOUT, deadline)
        left = left[os.write(stdin, left) :]


def receive(process: subprocess.Popen[bytes], seconds: float, most_bytes: int) -> bytes:
    """Reads a message. Raises TimeoutError, or OSError when there will be none or it is longer than ``most_bytes``."""
    deadline = time.monotonic() + seconds
    size = _LENGTH.unpack(_exactly(_pipe(process.stdout), _LENGTH.size, deadline))[0]
    if size > most_bytes:
        raise OSError("the answer is too long")
    return _exactly(_pipe(process.stdout), size, deadline)


def _exactly(stdout: int, size: int, deadline: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        _wait(stdout, select.POLLIN, deadline)
        chunk = os.read(stdout, size - len(data))
        if not chunk:
            raise OSError("the process has ended")
        data += chunk
    return bytes(data)


def _pipe(stream: IO[bytes] | None) -> int:
    assert stream is not None, "the process was started with pipes"
    return stream.fileno()


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
        raise TimeoutError
