"""Compiled grammars as the engine uses them: `engine.base.Grammar` and `Matcher` over llguidance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class GrammarFailed(Exception):
    """The grammar cannot be followed any further: it became too complex, or a token did not fit."""


@dataclass(frozen=True, slots=True)
class CompiledGrammar:
    """A grammar over a vocabulary. ``prototype`` is a matcher at its beginning that is only ever copied."""

    prototype: Any

    def matcher(self) -> Following:
        """Returns a matcher at the beginning."""
        return Following(self.prototype.deep_copy())


class Following:
    """One answer's place in a grammar."""

    def __init__(self, matcher: Any):
        self._matcher = matcher

    @property
    def terminated(self) -> bool:
        """Whether the answer is complete and nothing may follow."""
        return bool(self._matcher.is_stopped() and not self._matcher.is_error())

    def fill(self, row: torch.Tensor) -> None:
        """Writes which tokens may come next, as bits; ``row`` is int32 [ceil(vocabulary / 32)]. Raises GrammarFailed."""
        self._matcher.unsafe_compute_mask_ptr(row.data_ptr(), row.nbytes)
        self._check()

    def accept(self, token_id: int) -> None:
        """Goes on by a token. Raises GrammarFailed."""
        self._matcher.consume_token(token_id)
        self._check()

    def _check(self) -> None:
        if self._matcher.is_error():
            raise GrammarFailed(self._matcher.get_error())
