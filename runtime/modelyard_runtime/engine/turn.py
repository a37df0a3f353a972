"""Whose turn it is with what the process has once: PyTorch's own random generator, which pipelines of any model draw from."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

#: Seconds between looks at whoever has the turn: it may die without a word.
_LOOK = 1.0


class Holder(Protocol):
    """Somebody who may have the turn, and may die in it: a thread that hangs gives nothing back."""

    @property
    def failure(self) -> Exception | None:
        """Why it is dead; None while it lives."""
        ...


class Turn:
    """One at a time. Used from any thread."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._holder: Holder | None = None

    @contextmanager
    def taken(self, holder: Holder, wanted: Callable[[], bool]) -> Iterator[bool]:
        """Waits for the turn, and gives it back at the end; the dead have none. Yields False once it is not ``wanted`` any more."""
        with self._changed:
            while wanted() and not self._free():
                self._changed.wait(_LOOK)
            if mine := wanted():
                self._holder = holder
        try:
            yield mine
        finally:
            with self._changed:
                if self._holder is holder:
                    self._holder = None
                    self._changed.notify_all()

    def _free(self) -> bool:
        return self._holder is None or self._holder.failure is not None
