"""Grammars in the sampler: scores of tokens that may not come next become minus infinity.

Matchers are other people's code over input that clients send, so whatever one raises is that request's failure alone.
"""

import logging
from contextvars import copy_context

import torch

from modelyard_runtime.engine.base import Grammar, Matcher

logger = logging.getLogger(__name__)

_WORD = 32


class Constraint:
    """One answer's place in its grammar. ``failure`` says why the answer cannot go on, and is final."""

    def __init__(self, grammar: Grammar):
        self._grammar = grammar
        self._matcher: Matcher | None = None
        self._context = copy_context()
        self.failure: str | None = None

    def mask(self, scores: torch.Tensor) -> None:
        """Forbids in ``scores``, [vocabulary], in place, what may not come next; all of it after a failure."""
        words = torch.zeros(-(-len(scores) // _WORD), dtype=torch.int32)
        if self.failure is None:
            self._fill(words)
        scores.masked_fill_(~_bits(words, len(scores)).to(scores.device), -torch.inf)
        if self.failure is None and not words.any():
            self.failure = "the grammar allows no token here"

    def accept(self, token: int) -> bool:
        """Goes on by a sampled token; returns whether the answer is complete."""
        try:
            self._begun().accept(token)
            return self._begun().terminated
        except Exception as error:  # noqa: BLE001 - see above
            self._fail(error)
            return False

    def _fill(self, words: torch.Tensor) -> None:
        try:
            self._begun().fill(words)
        except Exception as error:  # noqa: BLE001 - see above
            self._fail(error)
            words.zero_()

    def _begun(self) -> Matcher:
        self._matcher = self._matcher or self._grammar.matcher()
        return self._matcher

    def _fail(self, error: Exception) -> None:
        self._context.run(logger.warning, "a grammar's matcher failed", exc_info=error)
        self.failure = f"the grammar could not be followed: {type(error).__name__}: {error}"


def _bits(words: torch.Tensor, count: int) -> torch.Tensor:
    """Returns the first ``count`` bits of int32 words, lowest first, as booleans."""
    places = torch.arange(_WORD, dtype=torch.int32)
    return ((words[:, None] >> places) & 1).bool().view(-1)[:count]
