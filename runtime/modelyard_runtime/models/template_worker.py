"""The process in which chat templates run: ``python -m modelyard_runtime.models.template_worker``.

A template is code that came with weights. Jinja's sandbox keeps it from files and objects, not from looping or from filling the memory;
a process of its own, with bounded memory and no environment, can be ended whatever it does. It reads requests from its input and writes
answers to its output until the input ends; both are JSON with their length, 4 bytes, before them. The first answer says that it is ready.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from transformers.utils.chat_template_utils import render_jinja_template

from modelyard_runtime.framing import LENGTH

#: Bytes that rendering may take on top of what the process needs by itself.
_MEMORY = 512 << 20


def main() -> None:
    """Answers requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to the server, which ends this process
    _limit_memory()
    _write({"ready": True})
    for request in _requests(sys.stdin.buffer):
        try:
            rendered, _ = render_jinja_template(**request)
            answer = {"text": rendered[0]}
        except MemoryError:
            answer = {"error": "MemoryError", "message": f"it needs more than {_MEMORY >> 20} MiB"}
        except Exception as error:  # noqa: BLE001 - whatever a template raises is its refusal, and the server's to tell
            answer = {"error": type(error).__name__, "message": str(error)[:1000]}
        _write(answer)


def _requests(stream: BinaryIO) -> Iterator[dict[str, Any]]:
    while head := stream.read(LENGTH.size):
        yield orjson.loads(stream.read(LENGTH.unpack(head)[0]))


def _write(answer: dict[str, Any]) -> None:
    data = orjson.dumps(answer)
    sys.stdout.buffer.write(LENGTH.pack(len(data)) + data)
    sys.stdout.buffer.flush()


def _limit_memory() -> None:
    """Bounds the address space, where the system can: Linux says what is in use."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))


if __name__ == "__main__":
    main()
