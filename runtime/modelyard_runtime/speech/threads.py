"""How CTranslate2's threads wait for each other.

Its wheel brings an OpenMP library of its own (GNU's). Loaded after PyTorch, CTranslate2 is nevertheless bound to PyTorch's, which that
package makes visible to all: then it waits as PyTorch does, and the idle threads of each count with the other's, so that both go to sleep
at once where they are more than the cores. Bound to its own it waits as suits it: decoding is thousands of sums of some 50 µs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

from modelyard_runtime.hardware import SPINS

# Measured with Whisper tiny on two cores: a sentence takes 642 ms with threads that sleep at once, 479 to 517 with 1,000, 3,000 and 10,000
# rounds; beside work on both cores 1.24 s, and 0.94 to 0.99. Beside three times as much work 10,000 cost a fifth more of the processor
# than 1,000. The value between was taken, not measured apart.
_SPINS = "2000"
_VARIABLE = "GOMP_SPINCOUNT"


def bind_ctranslate2() -> None:
    """Imports CTranslate2 bound to its own OpenMP library. Call it before anything else imports it; afterwards nothing changes.

    Where the loader cannot bind so (macOS, musl), whoever needs CTranslate2 imports it as usual.
    """
    deep = getattr(os, "RTLD_DEEPBIND", 0)
    if not deep or "ctranslate2" in sys.modules:
        return
    flags = sys.getdlopenflags()
    sys.setdlopenflags(flags | deep)
    try:
        with _short_waits():
            import_module("ctranslate2")
    finally:
        sys.setdlopenflags(flags)


@contextmanager
def _short_waits() -> Iterator[None]:
    """Within it, an OpenMP library that is loaded has its threads spin for less than PyTorch's; what the user set stays."""
    if os.environ.get(_VARIABLE) != SPINS:
        yield
        return
    os.environ[_VARIABLE] = _SPINS
    try:
        yield
    finally:
        os.environ[_VARIABLE] = SPINS
