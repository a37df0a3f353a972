"""Guessing the next tokens from the text itself: answers repeat their prompt and themselves.

The last few tokens are looked up earlier in the text, and what followed there is computed in the same step as the newest token. Where the
step's own choice agrees, the next one is known too; where it does not, what was computed behind it is written over later. What is chosen is
what would have been chosen one by one: see `core.Core.step`. https://github.com/apoorvumang/prompt-lookup-decoding
"""

from collections.abc import Sequence as Items

#: Tokens that must occur again for a guess.
_GRAM = 3
#: A step costs about as much as so many rows in it, whatever their number (measured on CPU: SmolLM2, 1 to 32 rows).
_ROWS_PER_STEP = 16
#: How much one try moves the estimate of the guesses' worth, and how fast doubt is forgotten while there are no tries.
_LEARNING = 0.2
_FORGETTING = 0.01
_PRIOR = 0.5


class Speculator:
    """The guesses for one sequence, and how often they were right."""

    def __init__(self) -> None:
        self._ends: dict[tuple[int, ...], int] = {}
        self._read = _GRAM
        self._share = _PRIOR

    def draft(self, tokens: Items[int], count: int, rows: int) -> tuple[int, ...]:
        """Returns up to ``count`` tokens that may follow ``tokens``; none where a step of so many rows gains more without them.

        A row is worth computing when the share of the step that one more token saves is larger than the share that one more row costs.
        """
        for end in range(self._read, len(tokens)):
            self._ends[tuple(tokens[end - _GRAM : end])] = end
        self._read = max(_GRAM, len(tokens))
        self._share += (_PRIOR - self._share) * _FORGETTING
        if self._share < rows / (rows + _ROWS_PER_STEP):
            return ()
        found = self._ends.get(tuple(tokens[-_GRAM:]))
        return () if found is None else _continued(tokens, found, count)

    def learn(self, drafted: int, accepted: int) -> None:
        """Takes down how a guess went."""
        if drafted:
            self._share += (accepted / drafted - self._share) * _LEARNING


def _continued(tokens: Items[int], start: int, count: int) -> tuple[int, ...]:
    """Returns ``count`` tokens from ``start`` on; where the text ends, it is taken to go round."""
    period = tokens[start:]
    return tuple(period[i % len(period)] for i in range(count))
