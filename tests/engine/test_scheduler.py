"""What a step computes, by properties."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.blocks import BLOCK, SlotTable, blocks_for
from modelyard_runtime.engine.cache import KVCache
from modelyard_runtime.engine.counts import Counts
from modelyard_runtime.engine.scheduler import Scheduler
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.engine.throttle import Throttle

BUDGET, BESIDE, TOGETHER = 32, 8, 40
SETTINGS = EngineSettings(prefill_tokens=BUDGET, prefill_tokens_beside_decodes=BESIDE, prefill_tokens_together=TOGETHER)


class Bench:
    """A scheduler over a cache that no layer writes to."""

    def __init__(self, sequences: int, blocks: int = 10_000, throttle: Throttle | None = None, settings: EngineSettings = SETTINGS):
        self.table = SlotTable(2 * sequences, blocks, KVCache(2 * sequences, 0))
        self.counts = Counts()
        self.throttle = throttle or Throttle()
        self.scheduler = Scheduler(self.table, sequences, settings, self.throttle, self.counts)
        self.done: list[Sequence] = []

    def step(self) -> int:
        """Takes a step as the engine does and checks its bounds; returns its tokens."""
        decoding = {id(s) for s in self.scheduler.running if s.remaining == 1}
        waiting = sum(s.remaining > 1 for s in [*self.scheduler.running, *self.scheduler.waiting])
        work = self.scheduler.schedule()
        assert work
        slots = [item.span.slot for item in work]
        assert len(set(slots)) == len(slots)
        assert self.table.held <= self.table.blocks
        prompts = sum(item.span.length for item in work if id(item.sequence) not in decoding and item.span.length > 1)
        assert prompts <= max(BESIDE if decoding else BUDGET, min(TOGETHER, BUDGET * waiting) if waiting > 1 else 0)
        ready = [item.sequence for item in work if item.samples]
        self.scheduler.computed(work, [False] * len(work))
        for sequence in ready:
            sequence.tokens.append(len(sequence.tokens) % 7)
            if sequence.generated == sequence.sampling.max_tokens:
                self.scheduler.remove(sequence)
                self.done.append(sequence)
        return sum(item.span.length for item in work)


def sequence(prompt: int, answer: int = 5, token: int = 7) -> Sequence:
    return Sequence.of(GenerationRequest("r", [token] * prompt, SamplingParams(max_tokens=answer)))


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 60)), min_size=1, max_size=12), st.integers(1, 5), st.integers(17, 60))
def test_every_sequence_ends_and_no_block_is_lost(shapes: list[tuple[int, int]], sequences: int, blocks: int) -> None:
    bench = Bench(sequences, blocks)
    everyone = [sequence(*shape, token=i) for i, shape in enumerate(shapes)]
    for item in everyone:
        bench.scheduler.add(item)
    steps = 0
    while bench.scheduler.busy:
        bench.step()
        steps += 1
        assert steps < 5000
    assert set(map(id, bench.done)) == set(map(id, everyone))
    assert all(item.generated == item.sampling.max_tokens for item in bench.done)
    assert (bench.table.taken, bench.table.held) == (0, 0)


def test_the_youngest_leaves_when_memory_runs_out_and_the_oldest_never() -> None:
    bench = Bench(4, blocks=12)
    everyone = [sequence(2 * BLOCK, answer=6 * BLOCK, token=i) for i in range(4)]
    for item in everyone:
        bench.scheduler.add(item)
    while bench.scheduler.busy:
        bench.step()
        if everyone[0].slot is not None:
            assert everyone[0].computed >= everyone[0].generated
    assert bench.counts.preemptions > 0
    assert [everyone.index(item) for item in bench.done] == [0, 1, 2, 3]


def test_who_was_sent_back_goes_on_before_who_never_began() -> None:
    bench = Bench(2, blocks=blocks_for(20 * BLOCK))
    first, second, third = (sequence(9 * BLOCK, answer=3 * BLOCK, token=i) for i in range(3))
    for item in (first, second, third):
        bench.scheduler.add(item)
    while not bench.counts.preemptions:
        bench.step()
    assert list(bench.scheduler.waiting) == [second, third]
    assert (second.slot, second.computed) == (None, 0)
    generated = second.generated
    while second.slot is None:
        bench.step()
    assert second.computed >= 8 * BLOCK  # what nobody needed meanwhile is still there
    assert generated > 0


def test_a_prompt_s_known_prefix_is_not_computed_again() -> None:
    bench = Bench(2)
    for prompt in (5 * BLOCK + 3, 5 * BLOCK, 2 * BLOCK + 1):
        bench.scheduler.add(sequence(prompt, answer=1))
        while bench.scheduler.busy:
            bench.step()
    assert [item.cached for item in bench.done] == [0, 5 * BLOCK - 1, 2 * BLOCK]
    assert (bench.counts.prefix_queries, bench.counts.prefix_hits) == (12 * BLOCK + 4, 7 * BLOCK - 1)


def test_only_what_a_step_has_written_is_shared() -> None:
    bench = Bench(4)
    first, second, third = (sequence(5 * BLOCK) for _ in range(3))
    bench.scheduler.add(first)
    work = bench.scheduler.schedule()
    bench.scheduler.add(second)
    bench.scheduler.computed(work, [False])
    bench.step()
    bench.scheduler.add(third)
    bench.step()
    assert (first.cached, second.cached, third.cached) == (0, BUDGET, 2 * BUDGET)


def test_what_was_spoiled_is_not_shared() -> None:
    bench = Bench(2)
    bad = sequence(3 * BLOCK, answer=1)
    bench.scheduler.add(bad)
    work = bench.scheduler.schedule()
    bench.scheduler.computed(work, [True])
    bench.scheduler.remove(bad)
    again = sequence(3 * BLOCK)
    bench.scheduler.add(again)
    bench.step()
    assert again.cached == 0


def test_prefix_caching_can_be_off() -> None:
    bench = Bench(2, settings=replace(SETTINGS, prefix_caching=False))
    for _ in range(2):
        bench.scheduler.add(sequence(3 * BLOCK, answer=1))
    while bench.scheduler.busy:
        bench.step()
    assert (bench.counts.prefix_queries, bench.table.cached) == (0, 0)


def test_a_throttled_step_is_as_small_as_told_and_grows_after_the_cooldown() -> None:
    now = [0.0]
    bench = Bench(8, throttle=Throttle(clock=lambda: now[0], cooldown=10))
    for _ in range(8):
        bench.scheduler.add(sequence(1, answer=100))
    assert bench.step() == 8
    bench.throttle.tighten(8)
    assert bench.step() == 4
    bench.throttle.tighten(4)
    assert bench.step() == 2
    now[0] = 10.0
    assert bench.step() == 4
    assert bench.step() == 4
    now[0] = 20.0
    assert bench.step() == 8


def test_a_short_prompt_overtakes_a_long_one() -> None:
    bench = Bench(4)
    long, short = sequence(1000), sequence(10, token=3)
    bench.scheduler.add(long)
    bench.step()
    bench.scheduler.add(short)
    work = bench.scheduler.schedule()
    assert [(item.sequence, item.span.length, item.samples) for item in work] == [(short, 10, True)]


def test_a_long_prompt_does_not_starve_among_short_ones() -> None:
    bench = Bench(3)
    long = sequence(300, answer=1)
    bench.scheduler.add(long)
    for number in range(100):
        while len(bench.scheduler.running) + len(bench.scheduler.waiting) < 3:
            bench.scheduler.add(sequence(BUDGET, answer=1, token=number + 8))
        bench.step()
        if long in bench.done:
            return
    raise AssertionError("the long prompt starved")


def test_removing_what_is_not_there_changes_nothing() -> None:
    bench = Bench(2)
    bench.scheduler.remove(sequence(3))
    assert bench.table.taken == 0
