"""Where the rows of one step go: which slot and position each packed token has, and which of them attend together.

A step packs decode rows (one token of a sequence) first, in the order of their slots, then prefill chunks. Decode rows of adjacent slots
form a group that is one view of the cache; a group ends where slots are apart, or where padding it to its longest member would read
more than one more attention call costs.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field

import torch

#: Padding, in cached tokens of one layer, whose reading takes about as long as one more attention call (25 µs at 1.5 KB per token).
MAX_PADDING = 256


@dataclass(frozen=True, slots=True)
class Span:
    """Positions [start, end) of the sequence in ``slot`` that a step computes."""

    slot: int
    start: int
    end: int

    @property
    def length(self) -> int:
        """Tokens in the span."""
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Seen:
    """Cached positions [first, end) that some rows look at, and an additive mask for those they must not see; None when they see all."""

    first: int
    end: int
    mask: torch.Tensor | None


@dataclass(slots=True)
class DecodeGroup:
    """Rows [row, row + count) of a step: one token each of the sequences in slots [slot, slot + count), at ``positions``."""

    row: int
    slot: int
    positions: list[int]
    _seen: dict[int | None, Seen] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Rows of the group."""
        return len(self.positions)

    def seen(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Seen:
        """Returns what the rows see under a sliding window; the mask is [count, 1, 1, end - first]. Computed once per step."""
        found = self._seen.get(window)
        if found is None:
            found = self._seen[window] = self._compute(window, dtype, device)
        return found

    def _compute(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Seen:
        end = max(self.positions) + 1
        first = 0 if window is None else max(0, min(self.positions) - window + 1)
        alike = min(self.positions) == max(self.positions)
        if alike:
            return Seen(first, end, None)
        mask = causal_mask(torch.tensor(self.positions, device=device), first, end, window, dtype)
        return Seen(first, end, mask[:, None, None, :])


@dataclass(slots=True)
class PrefillChunk:
    """Rows [row, row + length) of a step: positions [start, start + length) of the sequence in ``slot``."""

    row: int
    slot: int
    start: int
    length: int
    _seen: dict[int | None, Seen] = field(default_factory=dict)

    def seen(self, window: int | None, dtype: torch.dtype, device: torch.device) -> Seen:
        """Returns what the rows see under a sliding window; the mask is [length, end - first]. Computed once per step."""
        found = self._seen.get(window)
        if found is None:
            first = 0 if window is None else max(0, self.start - window + 1)
            end = self.start + self.length
            positions = torch.arange(self.start, end, device=device)
            found = self._seen[window] = Seen(first, end, causal_mask(positions, first, end, window, dtype))
        return found


@dataclass(frozen=True, slots=True)
class StepLayout:
    """All of a step: slot and position of each packed token ([T], long), and the groups that attend.

    ``sums`` has one [T] for each layer: see `note`.
    """

    slots: torch.Tensor
    positions: torch.Tensor
    decodes: list[DecodeGroup]
    prefills: list[PrefillChunk]
    sums: list[torch.Tensor] = field(default_factory=list)
    _places: dict[int, torch.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, spans: Items[Span], device: torch.device) -> "StepLayout":
        """Returns the layout of spans that are in packing order: see `packing_order`."""
        slots = [span.slot for span in spans for _ in range(span.length)]
        positions = [position for span in spans for position in range(span.start, span.end)]
        decodes = group_decodes([span for span in spans if span.length == 1])
        prefills, row = [], sum(group.count for group in decodes)
        for span in spans:
            if span.length > 1:
                prefills.append(PrefillChunk(row, span.slot, span.start, span.length))
                row += span.length
        return cls(torch.tensor(slots, device=device), torch.tensor(positions, device=device), decodes, prefills)

    def places(self, length: int) -> torch.Tensor:
        """Returns the place of each packed token, [T], among those of all slots of a length. Computed once per step."""
        found = self._places.get(length)
        if found is None:
            found = self._places[length] = self.slots * length + self.positions
        return found

    def note(self, rows: torch.Tensor) -> None:
        """Takes down a layer's keys and values, [T, width]: where one is not a number, the sum is none either."""
        self.sums.append(rows.sum(1, dtype=torch.float32))

    def spoiled(self) -> list[bool]:
        """Returns, for each token, whether `note` saw something that is not a number."""
        if not self.sums:
            return [False] * len(self.slots)
        noted = torch.stack([layer.to(self.slots.device) for layer in self.sums])
        return noted.isfinite().all(0).logical_not_().tolist()


def packing_order(span: Span) -> tuple[bool, int]:
    """Sort key: single tokens first, by slot."""
    return span.length > 1, span.slot


def group_decodes(spans: Items[Span]) -> list[DecodeGroup]:
    """Returns groups of single-token spans that are sorted by slot."""
    groups: list[DecodeGroup] = []
    for row, span in enumerate(spans):
        last = groups[-1] if groups else None
        if last is not None and last.slot + last.count == span.slot and _padding([*last.positions, span.start]) <= MAX_PADDING:
            last.positions.append(span.start)
        else:
            groups.append(DecodeGroup(row, span.slot, [span.start]))
    return groups


def causal_mask(positions: torch.Tensor, first: int, end: int, window: int | None, dtype: torch.dtype) -> torch.Tensor:
    """Returns an additive mask [rows, end - first]: a row at position p sees positions (p - window, p], or [0, p] without a window."""
    keys = torch.arange(first, end, device=positions.device)
    hidden = keys > positions[:, None]
    if window is not None:
        hidden |= keys <= positions[:, None] - window
    return torch.zeros(hidden.shape, dtype=dtype, device=positions.device).masked_fill_(hidden, -torch.inf)


def _padding(positions: list[int]) -> int:
    return max(positions) * len(positions) - sum(positions)
