"""Child processes that are there and do nothing: stopped, as by a frozen container."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from modelyard_runtime.child import Child


@contextmanager
def stopping(child: Child) -> Iterator[None]:
    """Stops the child's process, and each one that takes its place, as soon as it has started."""
    over, stopped = threading.Event(), set[int]()

    def stop() -> None:
        process = child.process
        if process is not None and process.pid not in stopped:
            stopped.add(process.pid)
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGSTOP)

    def watch() -> None:
        while not over.wait(0.001):
            stop()

    stop()
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
