"""How many tokens a step may compute: all that are wanted, until memory runs out."""

import time
from collections.abc import Callable

_COOLDOWN_SECONDS = 30.0
#: A limit that no step reaches; recovery ends there.
_UNLIMITED = 1 << 20


class Throttle:
    """Halves when a step runs out of memory, and doubles after each cooldown without that. ``clock`` is in seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, cooldown: float = _COOLDOWN_SECONDS):
        self._clock = clock
        self._cooldown = cooldown
        self._limit = _UNLIMITED
        self._changed = 0.0

    @property
    def limit(self) -> int:
        """Tokens of the next step, at least 1."""
        if self._limit < _UNLIMITED and self._clock() - self._changed >= self._cooldown:
            self._set(min(_UNLIMITED, self._limit * 2))
        return self._limit

    def tighten(self, tokens: int) -> None:
        """A step of so many tokens, at least 2, did not fit."""
        self._set(tokens // 2)

    def lift(self) -> None:
        """What did not fit is gone."""
        self._set(_UNLIMITED)

    def _set(self, limit: int) -> None:
        self._limit = limit
        self._changed = self._clock()
