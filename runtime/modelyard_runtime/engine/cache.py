"""Keys and values of all running sequences, and the slots they live in.

The border is `write` and `attend`: callers give packed rows and a `StepLayout`, and know nothing of where the rows lie. On CPU each
layer has one tensor of contiguous slots, [slots, kv_heads, length, head_dim]: adjacent slots are one view, so that the decode rows of a
step are one attention call. Gathering pages instead costs a copy of the whole context per step and loses from about 1,000 tokens on.
"""

import heapq
import mmap
from dataclasses import dataclass

import torch

from modelyard_runtime.engine.layout import StepLayout
from modelyard_runtime.engine.scores import AttentionRule, decode_attention, prefill_attention


class SlotPool:
    """Slots of the cache. The lowest free one goes first, which keeps the active ones adjacent without ever moving one."""

    def __init__(self, slots: int):
        self.slots = slots
        self._free = list(range(slots))

    @property
    def free(self) -> int:
        """Slots that nobody holds."""
        return len(self._free)

    def can_take(self) -> bool:
        """Whether `take` would succeed."""
        return bool(self._free)

    def take(self) -> int:
        """Returns a slot that is the caller's until `give_back`. Raises IndexError when none is free."""
        return heapq.heappop(self._free)

    def give_back(self, slot: int) -> None:
        """Takes a slot back. Raises ValueError when it was free already."""
        if slot in self._free:
            raise ValueError(f"slot {slot} is free already")
        heapq.heappush(self._free, slot)


@dataclass(frozen=True, slots=True)
class LayerStore:
    """One layer's keys and values, each [slots, kv_heads, length, head_dim]."""

    keys: torch.Tensor
    values: torch.Tensor

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in this layer."""
        per_tensor = (t.shape[1] * t.shape[3] * t.element_size() for t in (self.keys, self.values))
        return sum(per_tensor)


class KVCache:
    """Contiguous slots. A layer's tensors are made when it first writes: its head count and sizes are known only then."""

    def __init__(self, slots: int, length: int):
        self.slots = slots
        self.length = length
        self._layers: dict[int, LayerStore] = {}

    @property
    def layers(self) -> int:
        """Layers that have written."""
        return len(self._layers)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all layers that have written."""
        return sum(layer.bytes_per_token for layer in self._layers.values())

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, layout: StepLayout) -> None:
        """Stores a step's keys and values, each [1, kv_heads, T, head_dim], where the layout says.

        What is not a number is stored as 0: a mask hides numbers only, so it would spoil whoever has the slot next.
        """
        store = self._layers.get(layer)
        if store is None:
            store = self._layers[layer] = LayerStore(self._empty(key), self._empty(value))
        store.keys[layout.slots, :, layout.positions] = _numbers(key)
        store.values[layout.slots, :, layout.positions] = _numbers(value)

    def attend(self, layer: int, query: torch.Tensor, layout: StepLayout, rule: AttentionRule) -> torch.Tensor:
        """Returns attention of ``query`` [1, heads, T, head_dim], each row over its own sequence, as [1, T, heads, head_dim]."""
        store = self._layers[layer]
        parts = []
        for group in layout.decodes:
            seen = group.seen(rule.window, query.dtype, query.device)
            rows = slice(group.row, group.row + group.count)
            slots, span = slice(group.slot, group.slot + group.count), slice(seen.first, seen.end)
            keys, values = store.keys[slots, :, span], store.values[slots, :, span]
            parts.append(decode_attention(query[0, :, rows], keys, values, seen.mask, rule))
        for chunk in layout.prefills:
            seen = chunk.seen(rule.window, query.dtype, query.device)
            rows, span = slice(chunk.row, chunk.row + chunk.length), slice(seen.first, seen.end)
            keys, values = store.keys[chunk.slot, None, :, span], store.values[chunk.slot, None, :, span]
            parts.append(prefill_attention(query[:, :, rows], keys, values, seen.mask, rule))
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0)

    def _empty(self, like: torch.Tensor) -> torch.Tensor:
        shape = (self.slots, like.shape[1], self.length, like.shape[3])
        return zeros_on_demand(shape, like.dtype) if like.device.type == "cpu" else torch.zeros(shape, dtype=like.dtype, device=like.device)


def _numbers(rows: torch.Tensor) -> torch.Tensor:
    return rows[0].transpose(0, 1).nan_to_num(0.0, 0.0, 0.0)


def zeros_on_demand(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Returns zeros on CPU whose memory the kernel gives page by page as it is written.

    `torch.zeros` would touch all of it at once, and `torch.empty` may hand back memory with NaNs in it, which a mask does not hide.
    """
    count = 1
    for size in shape:
        count *= size
    return torch.frombuffer(mmap.mmap(-1, max(1, count * dtype.itemsize)), dtype=dtype, count=count).view(shape)
