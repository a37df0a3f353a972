"""Attention over pages: PyTorch's own FlashAttention, which reads pages where they lie, or plain attention over gathered pages.

`torch.nn.attention.varlen` serves half-precision heads of up to 256 numbers on GPUs of compute capability 8.0 on, in pages of a multiple of
256 tokens, causal or in a sliding window. Everything else takes the second way: processors, older GPUs, float32, capped scores, sinks.
"""

from dataclasses import dataclass, replace
from functools import cache
from itertools import accumulate

import torch
from torch.nn.attention.varlen import varlen_attn

from modelyard_runtime.engine.layout import causal_mask
from modelyard_runtime.engine.scores import AttentionRule, decode_attention, prefill_attention

#: Tokens of a page that the kernel reads, and of any multiple.
KERNEL_PAGE = 256
_CAPABILITY = (8, 0)
_WIDEST_HEAD = 256


@dataclass(frozen=True, slots=True)
class Part:
    """Sequences of a step that attend in one call: packed rows ``rows``, ``lengths`` of them each.

    ``used`` [n] are the cached tokens of each, the step's included, ``tables`` [n, width] their pages, ``starts`` [n + 1] their first rows,
    counted from the part's first, and ``reaches`` [n + 1] multiples of width · page; all int32. ``reach`` bounds ``used``.
    """

    rows: slice
    lengths: tuple[int, ...]
    reach: int
    used: torch.Tensor
    tables: torch.Tensor
    starts: torch.Tensor
    reaches: torch.Tensor

    @classmethod
    def of(
        cls, row: int, *, lengths: list[int], used: list[int], tables: list[list[int]], page: int, device: torch.device, reach: int = 0
    ) -> "Part":
        """Returns the part that begins at a packed row. ``reach`` is that of the longest sequence when left out."""
        full = len(tables[0]) * page
        numbers = [used, tables, [0, *accumulate(lengths)], [n * full for n in range(len(lengths) + 1)]]
        rows = slice(row, row + sum(lengths))
        tensors = (torch.tensor(each, dtype=torch.int32).to(device) for each in numbers)
        return cls(rows, tuple(lengths), reach or max(used), *tensors)

    def to(self, device: torch.device) -> "Part":
        """Returns the same part on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("used", "tables", "starts", "reaches")}
        return replace(self, **moved)


def paged_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, rule: AttentionRule) -> torch.Tensor:
    """Returns [rows, heads, value_dim] for the rows of a part.

    Shapes: query [heads, rows, dim], keys and values [pages, page, kv_heads, dim].
    """
    if serves(query, keys, values, rule):
        return _by_kernel(query, keys, values, part, rule)
    return _decodes(query, keys, values, part, rule) if max(part.lengths) == 1 else _prefills(query, keys, values, part, rule)


def serves(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, rule: AttentionRule) -> bool:
    """Whether the kernel can do it."""
    return (
        query.is_cuda
        and _capable(query.device.index or 0)
        and query.dtype in {torch.float16, torch.bfloat16}
        and rule.plain
        and keys.shape[1] % KERNEL_PAGE == 0
        and keys.shape[3] == values.shape[3] <= _WIDEST_HEAD
        and keys.shape[3] % 8 == 0
    )


@cache
def _capable(device: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= _CAPABILITY


def _by_kernel(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, rule: AttentionRule) -> torch.Tensor:
    """Rows stand at the end of what they see, so that causal means the same for a chunk of a prompt and for a newest token.

    The window is counted in tokens before the row's own: https://docs.pytorch.org/docs/stable/nn.attention.varlen.html.
    """
    out = varlen_attn(
        query.transpose(0, 1),
        keys,
        values,
        part.starts,
        part.reaches,
        max(part.lengths),
        part.tables.shape[1] * keys.shape[1],
        scale=rule.scale,
        window_size=(-1 if rule.window is None else rule.window - 1, 0),
        enable_gqa=query.shape[0] != keys.shape[2],
        seqused_k=part.used,
        block_table=part.tables,
    )
    assert isinstance(out, torch.Tensor)
    return out


def _decodes(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, rule: AttentionRule) -> torch.Tensor:
    if query.is_cuda and torch.cuda.is_current_stream_capturing():
        raise RuntimeError("attention that the kernel does not serve would read the longest context in every step")
    mask = causal_mask(part.used - 1, 0, part.reach, rule.window, query.dtype)[:, None, None, :]
    return decode_attention(query, _gathered(keys, part.tables, part.reach), _gathered(values, part.tables, part.reach), mask, rule)


def _prefills(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, part: Part, rule: AttentionRule) -> torch.Tensor:
    """One sequence after another: gathered together, each would take the memory of the longest."""
    out, row = [], 0
    for index, (length, used) in enumerate(zip(part.lengths, part.used.tolist(), strict=True)):
        positions = torch.arange(used - length, used, device=query.device)
        mask = causal_mask(positions, 0, used, rule.window, query.dtype)
        own = part.tables[index : index + 1]
        rows = query[None, :, row : row + length]
        out.append(prefill_attention(rows, _gathered(keys, own, used), _gathered(values, own, used), mask, rule))
        row += length
    return torch.cat(out)


def _gathered(pages: torch.Tensor, tables: torch.Tensor, length: int) -> torch.Tensor:
    """Returns the first ``length`` tokens of each table's pages, [n, kv_heads, length, dim]."""
    wanted = tables[:, : -(-length // pages.shape[1])]
    return pages[wanted].flatten(1, 2)[:, :length].transpose(1, 2)
