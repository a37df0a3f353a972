"""What a request holds until its answer has ended, however it ends: its model in memory, room for its images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

_current: ContextVar[ExitStack] = ContextVar("leases")


@contextmanager
def leasing() -> Iterator[None]:
    """Lets go, at its end, of what is leased within it by this task and those that it starts."""
    with ExitStack() as leased:
        token = _current.set(leased)
        try:
            yield
        finally:
            _current.reset(token)


def leases() -> ExitStack:
    """Returns what takes such things. Raises LookupError outside of `leasing`."""
    return _current.get()
