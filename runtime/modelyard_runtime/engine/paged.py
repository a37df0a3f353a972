"""Keys and values in pages: a cache for devices, where addresses are memory and kernels read pages where they lie.

Each layer has one tensor of pages, [pages + 1, page, kv_heads, head_dim], on the device that the layer is on; a slot is a list of pages,
which `pages.PageTable` gives it. The last page belongs to nobody: rows that only fill up a batch write there.

The border is that of `cache.KVCache`: callers give packed rows and a `StepLayout`. What it means in pages is worked out once per step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from modelyard_runtime.engine.blocks import BLOCK
from modelyard_runtime.engine.layout import StepLayout
from modelyard_runtime.engine.paged_attention import Part, paged_attention
from modelyard_runtime.engine.scores import AttentionRule


@dataclass(frozen=True, slots=True)
class PagePlan:
    """A step in pages, on one device: ``index`` [T] are the places of its tokens among all places, ``parts`` what attends in one call."""

    index: torch.Tensor
    parts: tuple[Part, ...]

    def to(self, device: torch.device) -> "PagePlan":
        """Returns the same plan on a device."""
        return self if self.index.device == device else PagePlan(self.index.to(device), tuple(part.to(device) for part in self.parts))


class PagedCache:
    """Pages of ``page`` tokens, a whole number of blocks. A layer's tensors are made when it first writes."""

    def __init__(self, slots: int, blocks: int, page: int):
        self.page = page
        self.pages = blocks * BLOCK // page
        self._slots: list[list[int]] = [[] for _ in range(slots)]
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._layout: StepLayout | None = None
        self._plans: dict[torch.device, PagePlan] = {}

    @property
    def layers(self) -> int:
        """Layers that have written."""
        return len(self._layers)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all layers that have written."""
        return sum(t.shape[2] * t.shape[3] * t.element_size() for layer in self._layers.values() for t in layer)

    def assign(self, slot: int, pages: list[int]) -> None:
        """Makes these the pages of a slot, in the order of its tokens."""
        self._slots[slot] = list(pages)

    def copy_page(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a page, in all layers."""
        for layer in self._layers.values():
            for tensor in layer:
                tensor[target, :tokens] = tensor[source, :tokens]

    def row(self, slot: int, width: int) -> list[int]:
        """Returns a slot's pages, filled up to ``width`` with the page that is nobody's."""
        pages = self._slots[slot]
        return pages + [self.pages] * (width - len(pages))

    def width(self, slots: list[int]) -> int:
        """Returns the pages of the longest of these slots, at least 1."""
        return max([1, *(len(self._slots[slot]) for slot in slots)])

    def use(self, layout: StepLayout, plan: PagePlan) -> None:
        """Says what a layout means in pages, for the steps that have it from now on; without this it is worked out."""
        self._layout, self._plans = layout, {plan.index.device: plan}

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, layout: StepLayout) -> None:
        """Stores a step's keys and values, each [1, kv_heads, T, head_dim], where the layout says.

        What is not a number is stored as 0, as in `cache.KVCache.write`; the layout takes down whose it was.
        """
        index = self._plan(layout, key.device).index
        for pages, part in zip(self._layer(layer, key, value), (key, value), strict=True):
            rows = part[0].transpose(0, 1)
            layout.note(rows.flatten(1))
            pages.flatten(0, 1)[index] = rows.nan_to_num(0.0, 0.0, 0.0)

    def attend(self, layer: int, query: torch.Tensor, layout: StepLayout, rule: AttentionRule) -> torch.Tensor:
        """Returns attention of ``query`` [1, heads, T, head_dim], each row over its own sequence, as [1, T, heads, head_dim]."""
        keys, values = self._layers[layer]
        parts = [paged_attention(query[0, :, part.rows], keys, values, part, rule) for part in self._plan(layout, query.device).parts]
        return (parts[0] if len(parts) == 1 else torch.cat(parts)).unsqueeze(0)

    def _layer(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = self._layers.get(layer)
        if found is None:
            found = self._layers[layer] = self._zeros(key), self._zeros(value)
        return found

    def _zeros(self, like: torch.Tensor) -> torch.Tensor:
        """Returns pages in which all is a number: a mask hides numbers only."""
        return torch.zeros(self.pages + 1, self.page, like.shape[1], like.shape[3], dtype=like.dtype, device=like.device)

    def _plan(self, layout: StepLayout, device: torch.device) -> PagePlan:
        if self._layout is not layout:
            self._layout, self._plans = layout, {device: self._worked_out(layout, device)}
        found = self._plans.get(device)
        if found is None:
            found = self._plans[device] = next(iter(self._plans.values())).to(device)
        return found

    def _worked_out(self, layout: StepLayout, device: torch.device) -> PagePlan:
        decodes = [(group.slot + i, position, 1) for group in layout.decodes for i, position in enumerate(group.positions)]
        prefills = [(chunk.slot, chunk.start, chunk.length) for chunk in layout.prefills]
        index = [place for slot, start, length in decodes + prefills for place in self._places(slot, start, length)]
        spans = [(0, decodes), (len(decodes), prefills)]
        parts = tuple(self._part(row, part, device) for row, part in spans if part)
        return PagePlan(torch.tensor(index, device=device), parts)

    def _places(self, slot: int, start: int, length: int) -> Iterator[int]:
        pages = self._slots[slot]
        return (pages[at // self.page] * self.page + at % self.page for at in range(start, start + length))

    def _part(self, row: int, spans: list[tuple[int, int, int]], device: torch.device) -> Part:
        width = self.width([slot for slot, _, _ in spans])
        return Part.of(
            row,
            lengths=[length for _, _, length in spans],
            used=[start + length for _, start, length in spans],
            tables=[self.row(slot, width) for slot, _, _ in spans],
            page=self.page,
            device=device,
        )
