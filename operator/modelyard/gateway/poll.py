"""Staying awake for the next request while requests come in quick succession.

A core that has gone to sleep takes tens of microseconds to wake, on a virtual machine more than the gateway takes for all its work on a
request, and a request that passes through meets two such sleeps. Linux's guest halt polling does the same below, where it is on:
https://docs.kernel.org/virt/guest-halt-polling.html
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from time import perf_counter

#: How much one gap moves the mean of the gaps.
_SHARE = 1 / 8


class BusyPoll:
    """Keeps the event loop turning for up to ``bound`` seconds after a request came or was answered, while that is worth it.

    It is while these events are less than ``bound`` apart on average, and fewer requests are in flight than there are ``cores``: with more
    of them the cores have work, and are awake. At lower rates, and with a bound of 0, it does nothing.
    """

    __slots__ = ("_bound", "_clock", "_cores", "_gap", "_in_flight", "_last", "_loop", "polling")

    def __init__(self, bound: float, cores: int, loop: asyncio.AbstractEventLoop, clock: Callable[[], float] = perf_counter):
        self._bound = bound
        self._cores = cores
        self._loop = loop
        self._clock = clock
        self._gap = self._longest
        self._in_flight = 0
        self._last = clock()
        self.polling = False

    @property
    def _longest(self) -> float:
        """What a gap counts for at most: after a pause some twenty events tell that they are frequent again."""
        return 4 * self._bound

    def began(self) -> None:
        """Takes down that a request came."""
        self._in_flight += 1
        self._seen()

    def ended(self) -> None:
        """Takes down that a request was answered, or given up."""
        self._in_flight -= 1
        self._seen()

    def _seen(self) -> None:
        now = self._clock()
        self._gap += (min(now - self._last, self._longest) - self._gap) * _SHARE
        self._last = now
        if self._gap < self._bound and self._in_flight < self._cores and not self.polling:
            self.polling = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        """Comes back in the next turn of the loop, which does not sleep before it."""
        if self._in_flight < self._cores and self._clock() - self._last < self._bound:
            self._loop.call_soon(self._turn)
        else:
            self.polling = False
