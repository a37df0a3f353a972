"""Attention over texts that lie one after the other, without padding.

Padding costs as much as text: of texts of mixed lengths half a batch is easily padding. Laid end to end, all layers but attention see
tokens only, and attention works on each text alone, texts of one length together. Measured with MiniLM in float32 on one core, 32 texts of
44 tokens in the mean, sorted by length: 16 ms a text padded, 8 ms packed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

#: The name under which models find the function.
NAME = "modelyard-packed"


@dataclass(slots=True)
class Packing:
    """How a pack is divided: ``groups`` are (texts, tokens of each) in order. ``layers`` counts the calls of attention."""

    groups: list[tuple[int, int]]
    layers: int = 0

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Packing:
        """Groups neighbours of one length."""
        return cls([(len(list(same)), length) for length, same in groupby(lengths)])


_CURRENT: ContextVar[Packing] = ContextVar("modelyard_packing")


@contextmanager
def packed(packing: Packing) -> Iterator[Packing]:
    """Makes ``packing`` the one that attention works on within the block, in this thread."""
    token = _CURRENT.set(packing)
    try:
        yield packing
    finally:
        _CURRENT.reset(token)


def attention(  # noqa: PLR0917 - Transformers' signature
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attends within each text, with the signature that Transformers calls.

    Shapes: query [1, heads, T, dim], key and value [1, kv_heads, T, dim]; returns [1, T, heads, dim]. Causality and window are applied
    here. Raises NotImplementedError on masks, biases, caps and sinks: such models are padded.
    """
    if attention_mask is not None or any(kwargs.get(name) is not None for name in ("softcap", "s_aux", "position_bias")):
        raise NotImplementedError("attention of another kind")
    packing = _CURRENT.get()
    packing.layers += 1
    causal = bool(kwargs.get("is_causal", getattr(module, "is_causal", False)))
    outputs: list[Tensor] = []
    begin = 0
    for count, length in packing.groups:
        end = begin + count * length
        mask = _window(length, sliding_window, causal, query) if sliding_window is not None and sliding_window < length else None
        output = scaled_dot_product_attention(
            _texts(query, begin, end, count),
            _texts(key, begin, end, count),
            _texts(value, begin, end, count),
            attn_mask=mask,
            is_causal=causal and mask is None,
            scale=scaling,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output.transpose(1, 2).reshape(end - begin, output.shape[1], output.shape[3]))
        begin = end
    return torch.cat(outputs)[None], None


def _texts(states: Tensor, begin: int, end: int, count: int) -> Tensor:
    """Returns the states of ``count`` texts of one length, [count, heads, length, dim]."""
    return states[0, :, begin:end].view(states.shape[1], count, -1, states.shape[3]).transpose(0, 1)


def _window(length: int, window: int, causal: bool, like: Tensor) -> Tensor:
    """Returns which of a text's tokens see each other, [length, length]: those less than ``window`` apart."""
    place = torch.arange(length, device=like.device)
    apart = place[:, None] - place[None, :]
    return (apart < window) & (apart >= 0 if causal else apart > -window)


AttentionInterface.register(NAME, attention)
