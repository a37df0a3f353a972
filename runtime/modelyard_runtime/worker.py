"""The life of a process of our own, from within; `child` is the server's end of it.

The first message prepares it, each further one is a question; its answers go out in their order. It has bounded memory, and takes the
processor for no longer than a question allows: past that the system ends it. So what a question costs does not depend on how busy the
machine is.
"""

from __future__ import annotations

import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson

from modelyard_runtime import framing

Message = dict[str, Any]

#: Bytes that questions may take on top of what the process needs by itself.
MEMORY = 512 << 20
#: Ends the process when a question's time on the processor is over: this is what it does unless somebody listens, and nobody does.
OVERRAN = signal.SIGPROF


def live(prepare: Callable[[Message], Callable[[Message], Message]]) -> None:
    """Answers questions until the input ends; ``prepare`` makes what answers them of the first message, which may never come."""
    signal.signal(OVERRAN, signal.SIG_DFL)
    messages = map(orjson.loads, framing.messages(sys.stdin.buffer))
    hello = next(messages, None)
    if hello is None:
        return
    answer = prepare(hello)
    _limit_memory()
    _write({})
    for message in messages:
        signal.setitimer(signal.ITIMER_PROF, message["seconds"])
        answered = answer(message["question"])
        signal.setitimer(signal.ITIMER_PROF, 0)
        _write(answered)


def _write(answer: Message) -> None:
    framing.write(sys.stdout.buffer, orjson.dumps(answer))


def _limit_memory() -> None:
    """Bounds the address space, where the system can: Linux says what is in use."""
    statm = Path("/proc/self/statm")
    if statm.is_file():
        used = int(statm.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
