"""Keys and values of all sequences.

The border is `write` and `attend`: callers give packed rows and a `StepLayout`, and know nothing of where the rows lie. On CPU each
layer has one tensor of contiguous slots: adjacent slots are one view, so that the decode rows of a step are one attention call. Gathering
pages instead costs a copy of the whole context per step and loses from about 1,000 tokens on.

A slot is as long as the longest sequence, and takes no more memory than what is written: the kernel gives pages on the first write, and
takes them back when their blocks are released. `blocks.SlotTable` decides which.
"""

import math
import mmap
import sys
from contextlib import suppress

import torch

from modelyard_runtime.engine.layout import StepLayout
from modelyard_runtime.engine.scores import AttentionRule, decode_attention, prefill_attention

# Of Linux, and without a name in Python: addresses that are not counted as memory until they are written, and the advice to give memory
# to addresses that are about to be (from Linux 5.14 on).
_NORESERVE = 0x4000 if sys.platform == "linux" else 0
_POPULATE_WRITE = 23 if sys.platform == "linux" else None


class Elastic:
    """A tensor of zeros on CPU whose memory the kernel gives page by page as it is written, and takes back on demand.

    The mapping is private: reading what was never written costs no memory. Large pages are refused: one would hold many blocks.
    `torch.zeros` would touch all of it at once, and `torch.empty` may hand back memory with NaNs in it, which a mask does not hide.
    """

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype):
        count = math.prod(shape)
        self._map = mmap.mmap(-1, max(1, count * dtype.itemsize), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE)
        if hasattr(mmap, "MADV_NOHUGEPAGE"):
            self._map.madvise(mmap.MADV_NOHUGEPAGE)
        self.tensor = torch.frombuffer(self._map, dtype=dtype, count=count).view(shape)

    def prepare(self, part: torch.Tensor) -> None:
        """Has the kernel give the pages of a contiguous part of the tensor now, in one call.

        One by one, as writes come upon them, they cost a tenth of a step of 8 sequences (SmolLM2: 40 ms instead of 36).
        """
        start, end = _bytes_of(part)
        first = start // mmap.PAGESIZE * mmap.PAGESIZE
        if _POPULATE_WRITE is not None and end > first:
            with suppress(OSError):  # an older kernel, or no memory: the write will tell
                self._map.madvise(_POPULATE_WRITE, first, end - first)

    def release(self, part: torch.Tensor) -> None:
        """Gives back the whole pages of a contiguous part of the tensor; it reads as zeros then."""
        start, end = _bytes_of(part)
        first, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
        if end > first and hasattr(mmap, "MADV_DONTNEED"):
            self._map.madvise(mmap.MADV_DONTNEED, first, end - first)


def _bytes_of(part: torch.Tensor) -> tuple[int, int]:
    """Returns where a contiguous part of a tensor begins and ends in its memory."""
    start = int(part.storage_offset()) * part.element_size()
    return start, start + int(part.numel()) * part.element_size()


class LayerStore:
    """One layer's keys and values, of a token side by side: ``rows`` [slots, length, width].

    ``keys`` and ``values``, each [slots, kv_heads, length, head_dim], are views. A token's write touches one place in memory, and that is
    most of what it costs: measured with 8 rows, 15 µs, and 63 with a tensor for each.
    """

    def __init__(self, slots: int, length: int, key: torch.Tensor, value: torch.Tensor):
        widths = [part.shape[1] * part.shape[3] for part in (key, value)]
        self._elastic: Elastic | None = None
        self.rows = self._zeros((slots, length, sum(widths)), key)
        self.places = self.rows.view(slots * length, -1)
        self.keys, self.values = (
            part.view(slots, length, like.shape[1], like.shape[3]).transpose(1, 2)
            for part, like in zip(self.rows.split_with_sizes(widths, -1), (key, value), strict=True)
        )

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in this layer."""
        return self.rows.shape[2] * self.rows.element_size()

    def prepare(self, slot: int, first: int, end: int) -> None:
        """Makes the memory of a slot's positions [first, end) ready to be written, where that is for us to do."""
        if self._elastic is not None:
            self._elastic.prepare(self.rows[slot, first:end])

    def release(self, slot: int, first: int, end: int) -> None:
        """Gives back the memory of a slot's positions [first, end), where there is any to give back."""
        if self._elastic is not None:
            self._elastic.release(self.rows[slot, first:end])

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies positions [0, length) of a slot."""
        self.rows[target, :length] = self.rows[source, :length]

    def _zeros(self, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
        if like.device.type != "cpu":
            return torch.zeros(shape, dtype=like.dtype, device=like.device)
        self._elastic = Elastic(shape, like.dtype)
        return self._elastic.tensor


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

    def prepare(self, slot: int, first: int, end: int) -> None:
        """Makes the memory of a slot's positions [first, end) ready to be written, in all layers that are known."""
        for layer in self._layers.values():
            layer.prepare(slot, first, end)

    def release(self, slot: int, first: int, end: int) -> None:
        """Gives back the memory of a slot's positions [first, end), in all layers."""
        for layer in self._layers.values():
            layer.release(slot, first, end)

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies positions [0, length) of a slot, in all layers."""
        for layer in self._layers.values():
            layer.copy(source, target, length)

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, layout: StepLayout) -> None:
        """Stores a step's keys and values, each [1, kv_heads, T, head_dim], where the layout says.

        What is not a number is stored as 0: a mask hides numbers only, so it would spoil whoever has the slot next. The layout takes down
        whose it was.
        """
        store = self._layers.get(layer)
        if store is None:
            store = self._layers[layer] = LayerStore(self.slots, self.length, key, value)
        rows = torch.cat([part[0].transpose(0, 1).flatten(1) for part in (key, value)], dim=1)
        layout.note(rows)
        store.places.index_copy_(0, layout.places(self.length), rows.nan_to_num_(0.0, 0.0, 0.0))

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
