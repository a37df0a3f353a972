"""Slots, blocks of memory and shared prefixes: by properties, and by what the memory itself says."""

import mmap
import random
import resource
from dataclasses import dataclass, field

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.engine.blocks import BLOCK, SlotTable, extend_digests
from modelyard_runtime.engine.cache import KVCache
from modelyard_runtime.engine.layout import Span, StepLayout

SLOTS, BLOCKS = 6, 20


def digests(tokens: list[int], salt: bytes = b"") -> list[bytes]:
    out: list[bytes] = []
    extend_digests(out, tokens, salt)
    return out


@dataclass
class Page:
    """Memory that remembers which text each slot's blocks were written with, and how many are ready to be."""

    texts: list[list[bytes]] = field(default_factory=lambda: [[] for _ in range(SLOTS)])
    ready: list[int] = field(default_factory=lambda: [0] * SLOTS)

    def prepare(self, slot: int, first: int, end: int) -> None:
        assert first == self.ready[slot] * BLOCK < end
        self.ready[slot] = end // BLOCK

    def release(self, slot: int, first: int, end: int) -> None:
        assert first % BLOCK == 0
        assert end == self.ready[slot] * BLOCK
        self.ready[slot] = first // BLOCK
        del self.texts[slot][first // BLOCK :]

    def copy(self, source: int, target: int, length: int) -> None:
        self.texts[target] = self.texts[source][: length // BLOCK]


class Play:
    """Takes, grows, shares and gives back as a scheduler would, and checks the books after each move."""

    def __init__(self, seed: int):
        self.memory = Page()
        self.table = SlotTable(SLOTS, BLOCKS, self.memory)
        self.texts: dict[int, list[bytes]] = {}
        self.chance = random.Random(seed)
        self.found = 0

    def move(self) -> None:
        move = self.chance.choice([self.take, self.take, self.grow, self.give_back])
        move()
        held = sum(self.table._slots[slot].blocks for slot in self.texts)
        all_blocks = sum(slot.blocks for slot in self.table._slots)
        assert self.table.held == held
        assert self.table.cached == all_blocks - held
        backed = sum(slot.backed for slot in self.table._slots)
        assert all(slot.blocks <= slot.backed for slot in self.table._slots)
        assert self.memory.ready == [slot.backed for slot in self.table._slots]
        assert backed + self.table._free == BLOCKS
        assert sum(map(len, self.memory.texts)) <= backed
        assert self.table.taken == len(self.texts)

    def take(self) -> None:
        text = digests([token for _ in range(self.chance.randrange(5)) for token in [self.chance.choice([1, 2])] * BLOCK])
        if self.table.can_take(len(text)):
            place = self.table.take(text)
            assert place.slot not in self.texts
            assert self.memory.texts[place.slot][: place.shared] == text[: place.shared]
            self.found += place.shared
            self.table.grow(place.slot, len(text))
            self.write(place.slot, text)

    def grow(self) -> None:
        for slot, text in self.texts.items():
            if self.table.can_grow(slot, len(text) + 1):
                self.table.grow(slot, len(text) + 1)
                self.write(slot, [*text, self.chance.randbytes(16)])
                return

    def write(self, slot: int, text: list[bytes]) -> None:
        self.memory.texts[slot] = list(text)
        self.texts[slot] = text
        self.table.share(slot, text[: self.chance.randrange(len(text) + 1)])

    def give_back(self) -> None:
        if self.texts:
            slot = self.chance.choice(list(self.texts))
            del self.texts[slot]
            self.table.give_back(slot, keep=self.chance.random() < 0.8)


@given(st.integers(0, 2**32))
def test_what_is_found_is_what_was_written_and_the_books_are_right(seed: int) -> None:
    play = Play(seed)
    for _ in range(120):
        play.move()
    for slot in list(play.texts):
        play.table.give_back(slot)
    assert play.table.held == play.table.taken == 0
    play.table.clear()
    assert play.table.cached == 0
    assert not play.table._index
    assert not any(play.memory.texts)


def test_moves_find_prefixes_at_all() -> None:
    play = Play(1)
    for _ in range(300):
        play.move()
    assert play.found > 50


def test_equal_tokens_are_shared_only_behind_equal_tokens_and_under_one_salt() -> None:
    a, b = digests([1] * 16 + [2] * 16), digests([3] * 16 + [2] * 16)
    assert not set(a) & set(b)
    assert a == digests([1] * 16 + [2] * 16 + [9] * 15)
    assert not set(a) & set(digests([1] * 16 + [2] * 16, b"adapter"))
    table = SlotTable(2, 10, Page())
    first = table.take([])
    table.grow(first.slot, 2)
    table.share(first.slot, a)
    assert table.take(b).shared == 0


def test_a_slot_that_is_wanted_whole_is_moved_into_and_one_that_runs_is_copied() -> None:
    table, text = SlotTable(3, 10, Page()), digests([7] * 48)
    first = table.take(text)
    table.grow(first.slot, 3)
    table.share(first.slot, text)
    second = table.take(text[:2])
    assert (second.slot != first.slot, second.shared) == (True, 2)
    table.give_back(first.slot)
    third = table.take(text)
    assert (third.slot, third.shared) == (first.slot, 3)


def test_the_least_recently_used_goes_first_and_from_its_end() -> None:
    table, texts = SlotTable(4, 6, Page()), [digests([n] * 48) for n in (1, 2)]
    for text in texts:
        place = table.take(text)
        table.grow(place.slot, 3)
        table.share(place.slot, text)
        table.give_back(place.slot)
    place = table.take([])
    table.grow(place.slot, 2)
    table.give_back(place.slot)
    assert table.cached == 4
    assert [table.take(text).shared for text in texts] == [1, 3]


def test_a_slot_given_back_twice_is_an_error() -> None:
    table = SlotTable(2, 4, Page())
    slot = table.take([]).slot
    table.give_back(slot)
    with pytest.raises(ValueError, match="free already"):
        table.give_back(slot)


def test_memory_stays_with_a_slot_until_another_needs_it() -> None:
    table = SlotTable(2, 4, Page())
    first = table.take([]).slot
    table.grow(first, 3)
    table.give_back(first)
    assert (table.cached, table._free) == (0, 1)
    assert table.take([]).slot == first
    table.grow(first, 1)
    assert table._free == 1
    other = table.take([]).slot
    table.grow(other, 3)
    assert [table._slots[slot].backed for slot in (first, other)] == [1, 3]


def test_slots_beside_taken_ones_go_first() -> None:
    table = SlotTable(6, 12, Page())
    assert [table.take([]).slot for _ in range(3)] == [0, 1, 2]
    table.give_back(1)
    assert table.take([]).slot == 1


def test_memory_follows_the_blocks() -> None:
    process = psutil.Process()
    cache = KVCache(slots=4, length=1 << 17)
    rows = torch.ones(1, 2, 1 << 15, 64)
    cache.write(0, rows[:, :, :1], rows[:, :, :1], StepLayout.of([Span(0, 0, 1)], torch.device("cpu")))
    store, before = cache._layers[0], process.memory_info().rss
    store.rows[1, : 1 << 15] = 1
    assert process.memory_info().rss - before > 0.9 * 2 * rows.nbytes
    store.rows.amax()  # reading what was never written costs no memory
    assert process.memory_info().rss - before < 1.5 * 2 * rows.nbytes
    cache.release(1, 16, 1 << 15)
    assert process.memory_info().rss - before < 0.3 * 2 * rows.nbytes
    assert float(store.keys[1].sum()) == 2 * 16 * 64
    cache.copy(1, 3, 16)
    assert torch.equal(store.keys[3, :, :16], store.keys[1, :, :16])


def test_writes_find_their_memory_ready() -> None:
    cache = KVCache(slots=2, length=1 << 12)
    table = SlotTable(2, 1 << 9, cache)
    rows = torch.ones(1, 2, 1 << 12, 64)
    cache.write(0, rows[:, :, :1], rows[:, :, :1], StepLayout.of([Span(0, 0, 1)], torch.device("cpu")))
    store = cache._layers[0]

    def faults(slot: int) -> int:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        store.rows[slot].numpy()[:] = 1  # by this thread alone; PyTorch shares a write of this size among its threads
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    table.grow(table.take([]).slot, 1 << 8)
    pages = store.rows[0].nbytes // mmap.PAGESIZE
    assert faults(0) < pages // 10
    assert faults(1) > pages // 2
