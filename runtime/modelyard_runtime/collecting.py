"""Imports of large packages: one thread at a time, with less work for Python's collector of cycles."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
#: Objects made between two looks at the young ones, looks between two at the older ones, and between two at all.
_SELDOM = (50_000, 20, 100)
#: Transformers puts another module in its place at the end of its import; a thread that imports it meanwhile gets the first one, which
#: has nothing in it.
_one_at_a_time = threading.RLock()


@contextmanager
def importing() -> Iterator[None]:
    """Has other threads wait, and the collector look for cycles less often.

    What packages make while they are imported stays, hundreds of thousands of objects. Looking through them again and again takes a tenth
    of the processor time of importing PyTorch and Transformers.
    """
    with _one_at_a_time:
        gc.set_threshold(*_SELDOM)
        try:
            yield
        finally:
            gc.set_threshold(*_USUAL)
