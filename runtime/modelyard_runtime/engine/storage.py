"""Which KV cache an engine has, and who keeps its books: contiguous slots on a processor, pages on devices."""

import torch

from modelyard_runtime.engine.blocks import BLOCK, SlotTable
from modelyard_runtime.engine.cache import KVCache
from modelyard_runtime.engine.capacity import Capacity
from modelyard_runtime.engine.paged import PagedCache
from modelyard_runtime.engine.paged_attention import KERNEL_PAGE
from modelyard_runtime.engine.pages import PageTable
from modelyard_runtime.engine.settings import EngineSettings

Cache = KVCache | PagedCache
Table = SlotTable | PageTable


def page_of(settings: EngineSettings, device: torch.device) -> int | None:
    """Returns the tokens of a page, None where there are slots. What no kernel reads need be no larger than a block."""
    if settings.kv_cache == "slots" or (settings.kv_cache == "auto" and device.type != "cuda"):
        return None
    return settings.page_tokens or (KERNEL_PAGE if device.type == "cuda" else BLOCK)


def storage(capacity: Capacity) -> tuple[Cache, Table]:
    """Returns an empty cache of that size and its books."""
    if capacity.page is None:
        slots = KVCache(capacity.slots, capacity.length)
        return slots, SlotTable(capacity.slots, capacity.blocks, slots)
    pages = PagedCache(capacity.slots, capacity.blocks, capacity.page)
    return pages, PageTable(capacity.slots, capacity.blocks, pages, capacity.page // BLOCK)


def small(slots: int, length: int, page: int | None) -> Cache:
    """Returns a cache of the same kind for trying a model, each slot with its own room for ``length`` tokens."""
    if page is None:
        return KVCache(slots, length)
    each = -(-length // page)
    cache = PagedCache(slots, slots * each * page // BLOCK, page)
    for slot in range(slots):
        cache.assign(slot, list(range(slot * each, (slot + 1) * each)))
    return cache
