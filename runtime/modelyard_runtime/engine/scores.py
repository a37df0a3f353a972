"""Attention of query rows over cached keys and values: the library's fused kernel, or plain arithmetic where a family needs more."""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True, slots=True)
class AttentionRule:
    """What a layer asks for: scale of the scores, sliding window in tokens, cap on the scores (Gemma 2), and sinks, [heads] (GPT-OSS)."""

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the fused kernel can do it."""
        return self.softcap is None and self.sinks is None


def decode_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, rule: AttentionRule
) -> torch.Tensor:
    """Returns [rows, heads, value_dim] for one query row per slot.

    Shapes: query [heads, rows, dim], keys and values [rows, kv_heads, length, dim], mask [rows, 1, 1, length]. Query heads that share a
    key head are packed as rows of one matrix, so keys are read once.
    """
    heads, rows, dim = query.shape
    packed = query.transpose(0, 1).reshape(rows, keys.shape[1], -1, dim)
    if rule.plain:
        out = scaled_dot_product_attention(packed, keys, values, mask, scale=rule.scale)
    else:
        sinks = None if rule.sinks is None else rule.sinks.view(1, keys.shape[1], -1, 1)
        out = _arithmetic(packed, keys, values, mask, rule, sinks=sinks)
    return out.reshape(rows, heads, -1)


def prefill_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, rule: AttentionRule
) -> torch.Tensor:
    """Returns [rows, heads, value_dim] for many rows of one sequence.

    Shapes: query [1, heads, rows, dim], keys and values [1, kv_heads, length, dim], mask [rows, length].
    """
    if rule.plain:
        grouped = query.shape[1] != keys.shape[1]
        out = scaled_dot_product_attention(query, keys, values, mask, scale=rule.scale, enable_gqa=grouped)
    else:
        repeats = query.shape[1] // keys.shape[1]
        sinks = None if rule.sinks is None else rule.sinks.view(1, -1, 1, 1)
        out = _arithmetic(query, keys.repeat_interleave(repeats, 1), values.repeat_interleave(repeats, 1), mask, rule, sinks=sinks)
    return out[0].transpose(0, 1)


def _arithmetic(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    rule: AttentionRule,
    *,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Softmax attention with capped scores and sinks, scores in float32 as the families' own code has them.

    A sink is one more score per head that takes probability and gives no value: https://arxiv.org/abs/2309.17453.
    """
    scale = query.shape[-1] ** -0.5 if rule.scale is None else rule.scale
    scores = torch.matmul(query, keys.transpose(-1, -2)).float() * scale
    if rule.softcap is not None:
        scores = torch.tanh(scores / rule.softcap) * rule.softcap
    if mask is not None:
        scores = scores + mask
    if sinks is None:
        return torch.matmul(scores.softmax(-1).to(values.dtype), values)
    extended = torch.cat([scores, sinks.float().expand(*scores.shape[:-1], 1)], dim=-1)
    return torch.matmul(extended.softmax(-1)[..., :-1].to(values.dtype), values)
