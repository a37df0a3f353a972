"""The process that tries grammars first: ``python -m modelyard_runtime.structured.worker``.

Compiling is native code that cannot be interrupted, over input that clients send: a handful of regular expressions that must all hold can
take it hours. What hangs or fills the memory here is ended from outside, and the server never compiles it. The first request brings the
tokenizer; each further one a grammar. Requests and answers are JSON with their length, 4 bytes, before them.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
from llguidance import LLMatcher, LLTokenizer

from modelyard_runtime.framing import LENGTH
from modelyard_runtime.structured.limits import limits

#: Bytes that a grammar may take on top of what the process needs by itself.
_MEMORY = 512 << 20


def main() -> None:
    """Answers requests until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C goes to the server, which ends this process
    requests = _requests(sys.stdin.buffer)
    hello = next(requests)
    tokenizer = LLTokenizer(hello["tokenizer"], n_vocab=hello["vocabulary"], eos_token=hello["eos"])
    _limit_memory()
    _write({"error": None})
    for request in requests:
        _write({"error": _problem(tokenizer, request["grammar"])})


def _problem(tokenizer: Any, grammar: str) -> str | None:
    """Returns why a grammar cannot be used; None when it can."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=limits())
    if not matcher.is_error() and (matcher.is_stopped() or not any(matcher.compute_bitmask()) or matcher.stop_reason() != "NotStopped"):
        return "nothing fits it: its rules contradict each other, or refer to each other without end"
    return str(matcher.get_error()) or None


def _requests(stream: Any) -> Iterator[dict[str, Any]]:
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
