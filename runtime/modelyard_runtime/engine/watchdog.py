"""Noticing that a step does not end: from the event loop, for the thread that hangs cannot."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Looks per timeout.
_LOOKS = 10


class Watchdog:
    """Calls ``on_hang`` on the event loop, once, when something watched takes longer than ``timeout`` seconds."""

    def __init__(self, timeout: float, on_hang: Callable[[], None]):
        self.timeout = timeout
        self.barked = False
        self._on_hang = on_hang
        self._since: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begins to look; call it on the loop."""
        self._timer = loop.call_later(self.timeout / _LOOKS, self._look, loop)

    def stop(self) -> None:
        """Looks no more."""
        if self._timer is not None:
            self._timer.cancel()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watches the block; called on the thread that runs it."""
        self._since = time.monotonic()
        try:
            yield
        finally:
            self._since = None

    def touch(self, allowance: float = 0.0) -> None:
        """Counts from now on: what is watched has come a step further, and the next one may take ``allowance`` seconds more than others."""
        self._since = time.monotonic() + allowance

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        since = self._since
        if since is not None and time.monotonic() - since > self.timeout:
            self.barked = True
            self._on_hang()
        else:
            self.start(loop)
