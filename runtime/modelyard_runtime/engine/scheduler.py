"""Which tokens the next step computes: one of each decoding sequence and what was guessed after it, and chunks of prompts.

A step has a budget of tokens. Decoding sequences come first; prompts share what is left, and no more than so much beside decoding
sequences, so that a long prompt does not stall the streams; where many wait it is more, so that all of them are soon done. Among prompts
the one with least left goes first, with a credit for every step waited: short ones start soon, long ones cannot starve. A step that reads
a prompt to its end begins no part of another: somebody waits for its first token.

Sequences begin in the order of their arrival, when there is memory for their prompts. Answers grow after that, and memory may run out:
then the youngest sequence goes back to the queue, and is computed again when it has its turn. The oldest always goes on, and a sequence
alone fits: so all of them end.
"""

from collections import deque
from dataclasses import dataclass

from modelyard_runtime.engine.base import FinishReason
from modelyard_runtime.engine.blocks import BLOCK, blocks_for
from modelyard_runtime.engine.counts import Counts
from modelyard_runtime.engine.layout import Span, packing_order
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.storage import Table
from modelyard_runtime.engine.throttle import Throttle

#: Tokens of remaining prompt that one step of waiting outweighs.
_CREDIT = 32
#: Prompt tokens of a step that all get scores over the vocabulary, when a request asks for them.
_SCORED = 64


@dataclass(frozen=True, slots=True)
class Work:
    """A sequence's part in a step: its tokens in ``span``, of which the last are ``drafts``, guesses of what comes after its newest one."""

    sequence: Sequence
    span: Span
    drafts: tuple[int, ...] = ()

    @property
    def known(self) -> int:
        """Where the span's tokens that are no guesses end."""
        return self.span.end - len(self.drafts)

    @property
    def tokens(self) -> list[int]:
        """The tokens to compute."""
        return [*self.sequence.tokens[self.span.start : self.known], *self.drafts]

    @property
    def read(self) -> int:
        """How many of the tokens are the prompt's."""
        left = len(self.sequence.request.prompt_token_ids) - self.span.start
        return 0 if left <= 0 else min(left, self.span.length)

    @property
    def samples(self) -> bool:
        """Whether the step computes the sequence's newest token, so that the next one can be sampled. Ask before that is appended."""
        return self.known == len(self.sequence.tokens)


class Scheduler:
    """Sequences that wait and run. ``sequences`` may run at once."""

    def __init__(self, table: Table, sequences: int, settings: EngineSettings, throttle: Throttle, counts: Counts):
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self._counts = counts
        self._table = table
        self._sequences = sequences
        self._settings = settings
        self._throttle = throttle
        self._arrivals = 0

    @property
    def busy(self) -> bool:
        """Whether a step would have something to do."""
        return bool(self.waiting or self.running)

    def add(self, sequence: Sequence) -> None:
        """Queues a sequence."""
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence, *, keep: bool = True) -> None:
        """Forgets a sequence, wherever it is; its slot's prefix stays cached if ``keep``. Does nothing when it has ended."""
        if sequence.slot is not None:
            self._share(sequence)
            self._leave(sequence, keep=keep)
        elif sequence in self.waiting:
            self.waiting.remove(sequence)

    def schedule(self) -> list[Work]:
        """Returns the next step's work in packing order; empty when nothing is queued."""
        self._admit()
        left = self._throttle.limit
        decodes = sorted((s for s in self.running if s.remaining == 1), key=_arrival)[:left]
        work = [self._decode(s, len(decodes), left - len(decodes)) for s in decodes]
        left -= sum(item.span.length for item in work if item)
        prompts = sorted((s for s in self.running if s.remaining > 1), key=_urgency)
        left = min(left, self._prompt_tokens(len(prompts), beside=bool(decodes)))
        ended = False
        for sequence in prompts:
            chunk = None if ended and sequence.remaining > left else self._prefill(sequence, left)
            if chunk is not None:
                left -= chunk.span.length
                ended |= chunk.samples
                work.append(chunk)
            sequence.steps_waited += 1
        placed = [item for item in work if item is not None and item.sequence.slot is not None]
        return sorted(placed, key=lambda item: packing_order(item.span))

    def computed(self, work: list[Work], spoiled: list[bool]) -> None:
        """Takes down that a step has put its work into the cache; ``spoiled`` says whose keys or values were not numbers."""
        for item, bad in zip(work, spoiled, strict=True):
            item.sequence.computed = item.known
            item.sequence.clean &= not bad
            self._share(item.sequence)

    def preempt_youngest(self, older: Sequence) -> bool:
        """Sends the youngest running sequence back to the queue, if it is younger than another one."""
        youngest = max(self.running, key=_arrival)
        if youngest.arrival <= older.arrival:
            return False
        self._share(youngest)
        self._leave(youngest, keep=True)
        youngest.computed = youngest.steps_waited = 0
        self.waiting.appendleft(youngest)
        self._counts.preemptions += 1
        return True

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self._sequences:
            sequence = self.waiting[0]
            # One block for each that runs, so that it does not have to leave with the next token.
            if not self._table.can_take(blocks_for(len(sequence.tokens)) + len(self.running)):
                return
            self.waiting.popleft()
            self._place(sequence)
            self.running.append(sequence)

    def _prompt_tokens(self, prompts: int, *, beside: bool) -> int:
        """Returns how many tokens of so many prompts a step may read.

        The more wait, the more: then all soon stream together, and a step costs little more with many streams than with few.
        """
        settings = self._settings
        one = settings.prefill_tokens_beside_decodes if beside else settings.prefill_tokens
        return one if prompts < 2 else max(one, min(settings.prefill_tokens * prompts, settings.prefill_tokens_together))

    def _place(self, sequence: Sequence) -> None:
        reuse = self._settings.prefix_caching and not sequence.scores_prompt
        placement = self._table.take(sequence.known_digests() if reuse else [])
        sequence.slot = placement.slot
        sequence.computed = min(placement.shared * BLOCK, len(sequence.tokens) - 1)
        sequence.prompt_scores.clear()
        if reuse and sequence.cached is None:
            sequence.cached = sequence.computed
            self._counts.prefix_queries += sequence.prompt_length
            self._counts.prefix_hits += sequence.cached

    def _decode(self, sequence: Sequence, rows: int, left: int) -> Work | None:
        if sequence.slot is None or not self._secure(sequence, len(sequence.tokens)):
            return None
        drafts = self._drafts(sequence, rows, left)
        return _work(sequence, 1 + len(drafts), drafts)

    def _drafts(self, sequence: Sequence, rows: int, left: int) -> tuple[int, ...]:
        """Returns guesses that cost nobody their place: within the answer's bounds, the step's and the memory that is free."""
        room = sequence.sampling.max_tokens - sequence.generated - 1
        count = min(self._settings.speculative_tokens, room, left // max(1, rows))
        if count <= 0 or sequence.slot is None:
            return ()
        drafts = sequence.speculator.draft(sequence.tokens, count, rows)
        blocks = blocks_for(len(sequence.tokens) + len(drafts))
        if not drafts or not self._table.can_grow(sequence.slot, blocks):
            return ()
        self._table.grow(sequence.slot, blocks)
        self._counts.drafts += 1
        self._counts.drafted += len(drafts)
        return drafts

    def _prefill(self, sequence: Sequence, left: int) -> Work | None:
        size = min(sequence.remaining, left, _SCORED if sequence.scores_prompt else left)
        if size <= 0 or sequence.slot is None or not self._secure(sequence, sequence.computed + size):
            return None
        return _work(sequence, size)

    def _secure(self, sequence: Sequence, length: int) -> bool:
        """Gets memory for a sequence's first ``length`` tokens, if need be at the cost of younger sequences; returns whether it has it."""
        assert sequence.slot is not None
        while not self._table.can_grow(sequence.slot, blocks_for(length)):
            if not self.preempt_youngest(sequence):
                return False
        self._table.grow(sequence.slot, blocks_for(length))
        return True

    def _share(self, sequence: Sequence) -> None:
        if sequence.clean and sequence.slot is not None and self._settings.prefix_caching:
            full = sequence.computed // BLOCK
            if len(sequence.digests) < full:
                sequence.known_digests()
            self._table.share(sequence.slot, sequence.digests[:full])

    def _leave(self, sequence: Sequence, *, keep: bool) -> None:
        assert sequence.slot is not None
        self.running.remove(sequence)
        self._table.give_back(sequence.slot, keep=keep)
        sequence.slot = None


def ends_text(sequence: Sequence, eos: frozenset[int]) -> bool:
    """Whether a sequence's newest token ends its answer and is not part of it."""
    token, sampling = sequence.tokens[-1], sequence.sampling
    return token in sampling.stop_token_ids or (token in eos and not sampling.ignore_eos)


def is_full(sequence: Sequence, context: int) -> bool:
    """Whether a sequence has all the tokens that it may have."""
    return sequence.generated >= sequence.sampling.max_tokens or len(sequence.tokens) >= context


def ending(sequence: Sequence, eos: frozenset[int], context: int) -> tuple[bool, FinishReason | None]:
    """Returns whether the newest token is no text, and why the sequence ends with it, None when it goes on. Its grammar takes it down."""
    if ends_text(sequence, eos):
        return True, FinishReason.STOP
    constraint = sequence.row.constraint
    if constraint is not None and constraint.accept(sequence.tokens[-1]):
        return False, FinishReason.STOP
    return False, FinishReason.LENGTH if is_full(sequence, context) else None


def _arrival(sequence: Sequence) -> int:
    return sequence.arrival


def _urgency(sequence: Sequence) -> int:
    return sequence.remaining - _CREDIT * sequence.steps_waited


def _work(sequence: Sequence, size: int, drafts: tuple[int, ...] = ()) -> Work:
    assert sequence.slot is not None
    return Work(sequence, Span(sequence.slot, sequence.computed, sequence.computed + size), drafts)
