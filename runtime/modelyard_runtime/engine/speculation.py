"""Guessing the next tokens from the text itself: answers repeat their prompt and themselves.

The last few tokens are looked up earlier in the text, and what followed there is computed in the same step as the newest token. Where the
step's own choice agrees, the next one is known too; where it does not, what was computed behind it is written over later. What is chosen is
what would have been chosen one by one: see `core.Core.step`. https://github.com/apoorvumang/prompt-lookup-decoding
"""

import math
from collections.abc import Sequence as Items

#: Tokens that must occur again for a guess.
_GRAM = 3
#: A step costs about as much as so many rows in it, whatever their number (measured on CPU: SmolLM2, 1 to 32 rows).
_ROWS_PER_STEP = 16
#: How much one guess moves the estimate of how likely the next one is right, at least: the first ones move it more.
_LEARNING = 0.1


class Speculator:
    """The guesses for one sequence, and how likely they are right. Where guessing does not pay, it learns from guesses that stay unused."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._read = _GRAM
        self._likely = 0.0
        self._seen = 0
        self._unused: tuple[int, int] | None = None

    def draft(self, tokens: Items[int], count: int, rows: int) -> tuple[int, ...]:
        """Returns up to ``count`` tokens that may follow ``tokens``: as many as are worth computing in a step of so many rows.

        A guess is worth it while it is likelier right, with those before it, than the share of the step that one more row costs compared
        with the share that one more token saves.
        """
        self._settle(tokens)
        self._index(tokens)
        found = self._ends.get(tuple(tokens[-_GRAM:]))
        if found is None:
            return ()
        guess = _continued(tokens, found, min(count, self._worth(rows)) or 1)
        if self._worth(rows):
            return guess
        self._unused = len(tokens), guess[0]
        return ()

    def learn(self, drafted: int, accepted: int) -> None:
        """Takes down how a guess went: of the tokens behind the first wrong one nothing is known."""
        for right in [True] * accepted + [False] * (accepted < drafted):
            self._seen += 1
            self._likely += (right - self._likely) * max(_LEARNING, 1 / (self._seen + 1))

    def _settle(self, tokens: Items[int]) -> None:
        if self._unused is not None:
            position, guess = self._unused
            self.learn(1, int(tokens[position] == guess))
            self._unused = None

    def _index(self, tokens: Items[int]) -> None:
        for end in range(self._read, len(tokens)):
            self._ends[tuple(tokens[end - _GRAM : end])] = end
        self._read = max(_GRAM, len(tokens))

    def _worth(self, rows: int) -> int:
        """Returns how many guesses in a row are likely enough."""
        least = rows / (rows + _ROWS_PER_STEP)
        if self._likely < least:
            return 0
        return int(math.log(least) / math.log(min(self._likely, 0.99)))


def _continued(tokens: Items[int], start: int, count: int) -> tuple[int, ...]:
    """Returns ``count`` tokens from ``start`` on; where the text ends, it is taken to go round."""
    period = tokens[start:]
    return tuple(period[i % len(period)] for i in range(count))
