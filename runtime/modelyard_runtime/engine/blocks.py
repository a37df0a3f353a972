"""Who has which slot of the KV cache, how many blocks of memory it holds, and which prefixes can be found in it.

A slot is a row of addresses long enough for any sequence; a block is memory for 16 tokens of it. Addresses are plenty, blocks are not: all
slots share them, so that more sequences may run than would fit if each were as long as it may become. A block holds tokens of a sequence
that runs, or of one that has ended and whose prefix somebody may ask for again; the latter go first when blocks run out, from the end of
the slot that was of no use for longest. What holds nothing any more keeps its memory until another slot needs it: the next sequence of the
slot finds it there, and memory taken anew costs more than what is written to it (measured: 8 ms of a step of 90 with 32 sequences).

What can be shared is known by digests. The digest of a block covers its tokens and those of all blocks before it, so that equal digests
mean equal prefixes; a salt tells apart sequences whose keys and values differ although their tokens do not, by an adapter or an image.
"""

from array import array
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

#: Tokens of a block.
BLOCK = 16


class Memory(Protocol):
    """What blocks are made of: `cache.KVCache`."""

    def prepare(self, slot: int, first: int, end: int) -> None:
        """Makes the memory of a slot's positions [first, end) ready to be written."""
        ...

    def release(self, slot: int, first: int, end: int) -> None:
        """Gives back the memory of a slot's positions [first, end)."""
        ...

    def copy(self, source: int, target: int, length: int) -> None:
        """Copies positions [0, length) of a slot."""
        ...


def blocks_for(tokens: int) -> int:
    """Returns how many blocks hold so many tokens."""
    return -(-tokens // BLOCK)


def extend_digests(digests: list[bytes], tokens: Items[int], salt: bytes = b"") -> None:
    """Appends the digests of the full blocks of ``tokens`` that have none yet."""
    for end in range((len(digests) + 1) * BLOCK, len(tokens) + 1, BLOCK):
        before = digests[-1] if digests else blake2b(salt, digest_size=16).digest()
        digests.append(blake2b(before + array("q", tokens[end - BLOCK : end]).tobytes(), digest_size=16).digest())


@dataclass(slots=True)
class _Slot:
    """``digests`` are those of its first blocks, as far as they may be shared; ``used`` is the table's clock when it was last of use.

    ``backed`` blocks have memory, of which the first ``blocks`` hold something.
    """

    taken: bool = False
    blocks: int = 0
    backed: int = 0
    digests: list[bytes] = field(default_factory=list)
    used: int = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """A slot for a sequence, and how many of its first blocks are in it already."""

    slot: int
    shared: int


class SlotTable:
    """Slots and blocks. Each command has its question: `can_take` and `take`, `can_grow` and `grow`."""

    def __init__(self, slots: int, blocks: int, memory: Memory):
        self.blocks = blocks
        self.held = 0
        self._memory = memory
        self._slots = [_Slot() for _ in range(slots)]
        self._free = blocks
        self._clock = 0
        self._index: dict[bytes, list[int]] = {}

    @property
    def taken(self) -> int:
        """Slots that sequences have."""
        return sum(slot.taken for slot in self._slots)

    @property
    def cached(self) -> int:
        """Blocks that are kept for what they hold alone."""
        return sum(slot.blocks for slot in self._slots) - self.held

    def can_take(self, blocks: int) -> bool:
        """Whether there is a slot, and so many blocks for it."""
        return blocks <= self.blocks - self.held and self.taken < len(self._slots)

    def take(self, digests: Items[bytes]) -> Placement:
        """Returns a slot that is the caller's until `give_back`, with as many of the prefix's blocks in it as any slot has.

        They are copied, or the slot is the one that holds them: when they are all that it holds, or there is no room for both.
        Ask `can_take` for at least as many blocks as there are digests.
        """
        source, shared = self._longest_prefix(digests)
        slot = source if source is not None and self._must_move_in(source, shared) else self._choose(source)
        self._cut(slot, shared if slot == source else 0)
        self._hold(slot)
        if source is not None and slot != source:
            self._touch(source)
            self.grow(slot, shared)
            self._memory.copy(source, slot, shared * BLOCK)
            self.share(slot, digests[:shared])
        return Placement(slot, shared)

    def can_grow(self, slot: int, blocks: int) -> bool:
        """Whether a taken slot can have so many blocks in all."""
        return blocks - self._slots[slot].blocks <= self.blocks - self.held

    def grow(self, slot: int, blocks: int) -> None:
        """Gives a taken slot so many blocks in all, at the cost of what is only cached."""
        state = self._slots[slot]
        if blocks > state.blocks:
            self.held += blocks - state.blocks
            state.blocks = blocks
            wanted = blocks - state.backed
            if wanted > 0:
                self._evict(wanted)
                self._free -= wanted
                self._memory.prepare(slot, state.backed * BLOCK, blocks * BLOCK)
                state.backed = blocks

    def share(self, slot: int, digests: Items[bytes]) -> None:
        """Lets others find a taken slot's first blocks, all of them written. Those that are known already may be named again."""
        mine = self._slots[slot].digests
        for digest in digests[len(mine) :]:
            mine.append(digest)
            self._index.setdefault(digest, []).append(slot)

    def give_back(self, slot: int, *, keep: bool = True) -> None:
        """Takes a slot back; what it shares stays cached if ``keep``. Raises ValueError when it was free already."""
        state = self._slots[slot]
        if not state.taken:
            raise ValueError(f"slot {slot} is free already")
        state.taken = False
        self.held -= state.blocks
        self._touch(slot)
        self._cut(slot, len(state.digests) if keep else 0)

    def clear(self) -> None:
        """Lets go of all that is only cached, and of its memory."""
        for index, slot in enumerate(self._slots):
            if not slot.taken:
                self._cut(index, 0)
            self._trim(index, slot.backed)

    def _longest_prefix(self, digests: Items[bytes]) -> tuple[int | None, int]:
        """Returns the slot that shares most of a prefix, and how many blocks; of several one that can be moved into."""
        found: list[int] = []
        shared = 0
        for digest in digests:
            holders = self._index.get(digest)
            if not holders:
                break
            found, shared = holders, shared + 1
        if not found:
            return None, 0
        return min(found, key=lambda i: (self._slots[i].taken, len(self._slots[i].digests))), shared

    def _must_move_in(self, source: int, shared: int) -> bool:
        state = self._slots[source]
        if state.taken:
            return False
        alone = all(slot.taken for slot in self._slots if slot is not state)
        return alone or shared == state.blocks or shared > self.blocks - self.held - state.blocks

    def _choose(self, source: int | None) -> int:
        """Returns a free slot: an empty one, else one of the older half of those cached; of these one beside slots that are taken.

        Rows of adjacent slots attend in one call.
        """
        free = [i for i, slot in enumerate(self._slots) if not slot.taken and i != source]
        empty = [i for i in free if not self._slots[i].blocks]
        old = sorted(free, key=lambda i: self._slots[i].used)[: (len(free) + 1) // 2]
        return max(empty or old, key=lambda i: (self._neighbours(i), self._slots[i].backed, -i))

    def _neighbours(self, slot: int) -> int:
        return sum(self._slots[i].taken for i in (slot - 1, slot + 1) if 0 <= i < len(self._slots))

    def _hold(self, slot: int) -> None:
        self._slots[slot].taken = True
        self.held += self._slots[slot].blocks

    def _touch(self, slot: int) -> None:
        self._clock += 1
        self._slots[slot].used = self._clock

    def _evict(self, wanted: int) -> None:
        """Makes memory for so many blocks free: what holds nothing goes first, then what is of use to nobody for longest."""
        while self._free < wanted:
            spare = next((i for i, s in enumerate(self._slots) if s.backed > s.blocks), None)
            if spare is None:
                spare = min((i for i, s in enumerate(self._slots) if s.blocks and not s.taken), key=lambda i: self._slots[i].used)
                self._cut(spare, max(0, self._slots[spare].blocks - (wanted - self._free)))
            self._trim(spare, wanted - self._free)

    def _trim(self, slot: int, wanted: int) -> None:
        """Gives back the memory of up to so many of a slot's blocks that hold nothing."""
        state = self._slots[slot]
        least = max(state.blocks, state.backed - wanted)
        if state.backed > least:
            self._memory.release(slot, least * BLOCK, state.backed * BLOCK)
            self._free += state.backed - least
            state.backed = least

    def _cut(self, slot: int, blocks: int) -> None:
        """Leaves a slot its first blocks, the others hold nothing any more."""
        state = self._slots[slot]
        state.blocks = min(state.blocks, blocks)
        for digest in state.digests[blocks:]:
            holders = self._index[digest]
            holders.remove(slot)
            if not holders:
                del self._index[digest]
        del state.digests[blocks:]
