"""From the hidden states of a text's tokens to one vector for the text.

Texts lie one after the other, without padding: ``values`` are [tokens of all texts, size], ``lengths`` their tokens [texts]; results are
[texts, size]. Formulas: https://sbert.net/docs/package_reference/sentence_transformer/modules.html#pooling
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Hidden:
    """Hidden states of a batch's tokens."""

    values: Tensor
    lengths: Tensor

    @property
    def starts(self) -> Tensor:
        """Where each text begins, [texts]."""
        return self.lengths.cumsum(0) - self.lengths

    def without(self, skip: Sequence[int]) -> Hidden:
        """Returns the states without the first ``skip`` tokens of each text."""
        if not any(skip):
            return self
        dropped = torch.tensor(skip, device=self.lengths.device)
        kept = self.position() >= dropped.repeat_interleave(self.lengths)
        return Hidden(self.values[kept], self.lengths - dropped)

    def position(self) -> Tensor:
        """Returns each token's place in its text, from 0, [tokens]."""
        return torch.arange(len(self.values), device=self.lengths.device) - self.starts.repeat_interleave(self.lengths)


def _mean(hidden: Hidden) -> Tensor:
    return torch.segment_reduce(hidden.values, "mean", lengths=hidden.lengths)


def _mean_sqrt(hidden: Hidden) -> Tensor:
    return _mean(hidden) * hidden.lengths.sqrt()[:, None]


def _weighted_mean(hidden: Hidden) -> Tensor:
    """Weights rise with the place: 1, 2, … n."""
    weights = (hidden.position() + 1).to(hidden.values.dtype)[:, None]
    total = torch.segment_reduce(hidden.values * weights, "sum", lengths=hidden.lengths)
    return total / (hidden.lengths * (hidden.lengths + 1) / 2)[:, None]


def _maximum(hidden: Hidden) -> Tensor:
    return torch.segment_reduce(hidden.values, "max", lengths=hidden.lengths)


def first(hidden: Hidden) -> Tensor:
    """Returns the first token's state of each text."""
    return hidden.values[hidden.starts]


def last(hidden: Hidden) -> Tensor:
    """Returns the last token's state of each text."""
    return hidden.values[hidden.lengths.cumsum(0) - 1]


_POOLS: dict[str, Callable[[Hidden], Tensor]] = {
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "max": _maximum,
    "cls": first,
    "lasttoken": last,
}


def pool(hidden: Hidden, names: Sequence[str]) -> Tensor:
    """Returns one vector for each text, [texts, size × len(names)]."""
    pooled = [_POOLS[name](hidden) for name in names]
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled, dim=-1)
