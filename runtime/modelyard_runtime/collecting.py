"""Python's collector of cycles while large packages are imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_USUAL = gc.get_threshold()
#: Objects made between two looks at the young ones, looks between two at the older ones, and between two at all.
_SELDOM = (50_000, 20, 100)


@contextmanager
def importing() -> Iterator[None]:
    """Has the collector look for cycles less often: what packages make while they are imported stays, hundreds of thousands of objects.

    Looking through them again and again takes a tenth of the processor time of importing PyTorch and Transformers.
    """
    gc.set_threshold(*_SELDOM)
    try:
        yield
    finally:
        gc.set_threshold(*_USUAL)
