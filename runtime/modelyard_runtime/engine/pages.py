"""Who has which page of a paged KV cache, and which prefixes can be found in them.

A page is memory for a whole number of blocks of one sequence; a slot is a list of pages, and any page can be anywhere in it. So a prefix is
shared by reference: sequences that begin alike name the same pages, which count once. Pages that nobody names stay as long as they are not
needed, those of no use for longest go first, and of one sequence its end before its beginning.

What is found is counted in blocks, which may be smaller than pages: kernels want pages of 256 tokens, and many prompts share less. The
blocks of a page that is shared in part are copied. So is the page that a sequence would write to again: what is shared never changes.

The table asks and answers in blocks, as `blocks.SlotTable` does, whose place it takes.
"""

from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Protocol

from modelyard_runtime.engine.blocks import BLOCK, Placement


class Pages(Protocol):
    """What pages are made of: `paged.PagedCache`."""

    def assign(self, slot: int, pages: list[int]) -> None:
        """Makes these the pages of a slot, in the order of its tokens."""
        ...

    def copy_page(self, source: int, target: int, tokens: int) -> None:
        """Copies the first tokens of a page."""
        ...


@dataclass(slots=True)
class _Page:
    """``users`` are the slots that name it; ``digests`` lead to it."""

    users: int = 0
    digests: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Slot:
    """A taken slot; ``shared`` of its first blocks can be found."""

    pages: list[int] = field(default_factory=list)
    shared: int = 0


class PageTable:
    """Slots and pages of ``per_page`` blocks. Each command has its question: `can_take` and `take`, `can_grow` and `grow`."""

    def __init__(self, slots: int, blocks: int, memory: Pages, per_page: int = 1):
        self._per_page = per_page
        self._memory = memory
        self._slots: list[_Slot | None] = [None] * slots
        self._pages = [_Page() for _ in range(blocks // per_page)]
        self._free = list(reversed(range(len(self._pages))))
        self._idle: dict[int, None] = {}  # kept for what they hold, that of no use for longest first
        self._index: dict[bytes, int] = {}

    @property
    def blocks(self) -> int:
        """Blocks that all pages hold."""
        return len(self._pages) * self._per_page

    @property
    def held(self) -> int:
        """Blocks of the pages that sequences have."""
        return (len(self._pages) - len(self._free) - len(self._idle)) * self._per_page

    @property
    def cached(self) -> int:
        """Blocks of the pages that are kept for what they hold alone."""
        return len(self._idle) * self._per_page

    @property
    def taken(self) -> int:
        """Slots that sequences have."""
        return sum(slot is not None for slot in self._slots)

    def can_take(self, blocks: int) -> bool:
        """Whether there is a slot, and so many blocks for it."""
        return self._pages_for(blocks) <= self._available and None in self._slots

    def take(self, digests: Items[bytes]) -> Placement:
        """Returns a slot that is the caller's until `give_back`, with as many of the prefix's blocks in it as there are.

        Ask `can_take` for at least as many blocks as there are digests.
        """
        found = self._known(digests)
        # A sequence whose tokens are all known computes its last one again, and must not write it where others read.
        whole = (found - 1 if found == len(digests) else found) // self._per_page if found else 0
        pages = [self._index[digests[(index + 1) * self._per_page - 1]] for index in range(whole)]
        for page in pages:
            self._use(page)
        shared = whole * self._per_page
        if found > shared and (copied := self._copy(self._index[digests[found - 1]], found - shared)) is not None:
            pages, shared = [*pages, copied], found
        slot = self._slots.index(None)
        self._slots[slot] = _Slot(pages, shared)
        self._memory.assign(slot, pages)
        return Placement(slot, shared)

    def can_grow(self, slot: int, blocks: int) -> bool:
        """Whether a taken slot can have so many blocks in all."""
        return self._pages_for(blocks) - len(self._of(slot).pages) <= self._available

    def grow(self, slot: int, blocks: int) -> None:
        """Gives a taken slot so many blocks in all, at the cost of what is only cached."""
        pages = self._of(slot).pages
        more = self._pages_for(blocks) - len(pages)
        if more > 0:
            pages += [self._new() for _ in range(more)]
            self._memory.assign(slot, pages)

    def share(self, slot: int, digests: Items[bytes]) -> None:
        """Lets others find a taken slot's first blocks, all of them written. Those that are known already may be named again."""
        state = self._of(slot)
        for index in range(state.shared, len(digests)):
            digest, page = digests[index], state.pages[index // self._per_page]
            if self._index.setdefault(digest, page) == page:
                self._pages[page].digests.append(digest)
        state.shared = max(state.shared, len(digests))

    def give_back(self, slot: int, *, keep: bool = True) -> None:
        """Takes a slot back; what it shares stays cached if ``keep``. Raises ValueError when it was free already."""
        state = self._of(slot)
        self._slots[slot] = None
        for page in reversed(state.pages):  # the end first, so that it goes before what leads to it
            self._pages[page].users -= 1
            if self._pages[page].users == 0:
                self._rest(page, keep=keep)
        self._memory.assign(slot, [])

    def clear(self) -> None:
        """Lets go of all that is only cached."""
        for page in list(self._idle):
            del self._idle[page]
            self._rest(page, keep=False)

    @property
    def _available(self) -> int:
        return len(self._free) + len(self._idle)

    def _pages_for(self, blocks: int) -> int:
        return -(-blocks // self._per_page)

    def _of(self, slot: int) -> _Slot:
        state = self._slots[slot]
        if state is None:
            raise ValueError(f"slot {slot} is free already")
        return state

    def _known(self, digests: Items[bytes]) -> int:
        """Returns how many of a prefix's blocks can be found."""
        return next((count for count, digest in enumerate(digests) if digest not in self._index), len(digests))

    def _copy(self, source: int, blocks: int) -> int | None:
        """Returns a page with the first blocks of another; None where there is no other page to be had."""
        self._use(source)
        copied = self._new() if self._available else None
        if copied is not None:
            self._memory.copy_page(source, copied, blocks * BLOCK)
        self._pages[source].users -= 1
        if self._pages[source].users == 0:
            self._rest(source, keep=True)
        return copied

    def _use(self, page: int) -> None:
        self._idle.pop(page, None)
        self._pages[page].users += 1

    def _new(self) -> int:
        """Returns a page that nobody has, for one user."""
        if not self._free:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._rest(oldest, keep=False)
        page = self._free.pop()
        self._pages[page].users = 1
        return page

    def _rest(self, page: int, *, keep: bool) -> None:
        """Puts a page that nobody uses to the others of its kind."""
        state = self._pages[page]
        if keep and state.digests:
            self._idle[page] = None
            return
        for digest in state.digests:
            del self._index[digest]
        state.digests.clear()
        self._free.append(page)
