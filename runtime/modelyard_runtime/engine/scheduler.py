"""Which tokens the next step computes: one for each decoding sequence, and chunks of the prompts that are still being read.

A step has a budget of tokens. Decoding sequences come first; prompts share what is left, and less of it beside decoding sequences, so
that a long prompt does not stall the streams. Among prompts the one with least left goes first, with a credit for every step waited: short
ones start soon, long ones cannot starve.
"""

from collections import deque
from dataclasses import dataclass

from modelyard_runtime.engine.cache import SlotPool
from modelyard_runtime.engine.layout import Span, packing_order
from modelyard_runtime.engine.sequence import Sequence

#: Tokens of remaining prompt that one step of waiting outweighs.
_CREDIT = 32


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence's part in a step."""

    sequence: Sequence
    span: Span

    @property
    def samples(self) -> bool:
        """Whether the step's last token of this sequence is its newest, so that the next one can be sampled."""
        return self.span.end == len(self.sequence.tokens)


class Scheduler:
    """Sequences that wait and run. ``budget`` and ``budget_beside_decodes`` are prompt tokens per step."""

    def __init__(self, slots: SlotPool, budget: int, budget_beside_decodes: int):
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._slots = slots
        self._budget = budget
        self._budget_beside_decodes = budget_beside_decodes

    @property
    def busy(self) -> bool:
        """Whether a step would have something to do."""
        return bool(self.waiting or self.running)

    @property
    def cached_tokens(self) -> int:
        """Tokens that the KV cache holds."""
        return sum(sequence.computed for sequence in self.running)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forgets a sequence, wherever it is, and frees its slot. Does nothing when it has ended."""
        if sequence.slot is not None:
            self.running.remove(sequence)
            self._slots.give_back(sequence.slot)
            sequence.slot = None
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def schedule(self) -> list[Work]:
        """Returns the next step's work in packing order; empty when nothing is queued."""
        self._admit()
        decodes = [s for s in self.running if s.remaining == 1]
        prompts = [s for s in self.running if s.remaining > 1]
        left = self._budget_beside_decodes if decodes else self._budget
        work = [_work(s, 1) for s in decodes]
        for sequence in sorted(prompts, key=_urgency):
            size = min(sequence.remaining, left)
            if size > 0:
                work.append(_work(sequence, size))
                left -= size
            sequence.steps_waited += 1
        return sorted(work, key=lambda item: packing_order(item.span))

    def computed(self, work: list[Work]) -> None:
        """Takes down that a step has put its work into the cache."""
        for item in work:
            item.sequence.computed = item.span.end

    def _admit(self) -> None:
        while self.waiting and self._slots.can_take():
            sequence = self.waiting.popleft()
            sequence.slot = self._slots.take()
            self.running.append(sequence)


def ends_text(sequence: Sequence, eos: frozenset[int]) -> bool:
    """Whether a sequence's newest token ends its answer and is not part of it."""
    token, sampling = sequence.tokens[-1], sequence.sampling
    return token in sampling.stop_token_ids or (token in eos and not sampling.ignore_eos)


def is_full(sequence: Sequence, context: int) -> bool:
    """Whether a sequence has all the tokens that it may have."""
    return sequence.generated >= sequence.sampling.max_tokens or len(sequence.tokens) >= context


def _urgency(sequence: Sequence) -> int:
    return sequence.remaining - _CREDIT * sequence.steps_waited


def _work(sequence: Sequence, size: int) -> Work:
    assert sequence.slot is not None
    return Work(sequence, Span(sequence.slot, sequence.computed, sequence.computed + size))
