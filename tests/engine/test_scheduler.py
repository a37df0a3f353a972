"""What a step computes, by properties."""

from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.cache import SlotPool
from modelyard_runtime.engine.scheduler import Scheduler
from modelyard_runtime.engine.sequence import Sequence

BUDGET, BESIDE = 32, 8


def sequence(prompt: int, answer: int = 5) -> Sequence:
    return Sequence.of(GenerationRequest("r", [7] * prompt, SamplingParams(max_tokens=answer)))


def run(scheduler: Scheduler, done: list[Sequence]) -> int:
    """Steps until nothing is left, checking each step's bounds; returns the steps."""
    steps = 0
    while scheduler.busy:
        decoding = any(s.remaining == 1 for s in scheduler.running)
        work = scheduler.schedule()
        assert work
        slots = [item.span.slot for item in work]
        assert len(set(slots)) == len(slots)
        prompts = sum(item.span.length for item in work if not (item.samples and item.span.length == 1))
        assert prompts <= (BESIDE if decoding else BUDGET)
        scheduler.computed(work)
        for item in [item for item in work if item.samples]:
            item.sequence.tokens.append(1)
            if item.sequence.generated == item.sequence.sampling.max_tokens:
                scheduler.remove(item.sequence)
                done.append(item.sequence)
        steps += 1
    return steps


@given(st.lists(st.tuples(st.integers(1, 200), st.integers(1, 10)), min_size=1, max_size=12), st.integers(1, 5))
def test_every_sequence_ends_and_no_slot_is_lost(shapes: list[tuple[int, int]], slots: int) -> None:
    pool = SlotPool(slots)
    scheduler = Scheduler(pool, BUDGET, BESIDE)
    sequences = [sequence(*shape) for shape in shapes]
    for item in sequences:
        scheduler.add(item)
    done: list[Sequence] = []
    run(scheduler, done)
    assert set(map(id, done)) == set(map(id, sequences))
    assert all(item.generated == item.sampling.max_tokens for item in done)
    assert pool.free == slots


def test_a_short_prompt_overtakes_a_long_one() -> None:
    scheduler = Scheduler(SlotPool(4), BUDGET, BESIDE)
    long, short = sequence(1000), sequence(10)
    scheduler.add(long)
    scheduler.schedule()
    scheduler.add(short)
    work = scheduler.schedule()
    assert [item.sequence for item in work if item.samples] == [short]
    assert sum(item.span.length for item in work) == BUDGET


def test_a_long_prompt_does_not_starve_among_short_ones() -> None:
    scheduler = Scheduler(SlotPool(3), BUDGET, BESIDE)
    long = sequence(300, answer=1)
    scheduler.add(long)
    for step in range(200):
        while len(scheduler.running) + len(scheduler.waiting) < 3:
            scheduler.add(sequence(BUDGET, answer=1))
        work = scheduler.schedule()
        scheduler.computed(work)
        for item in [item for item in work if item.samples]:
            if item.sequence is long:
                assert step < 100
                return
            scheduler.remove(item.sequence)
    raise AssertionError("the long prompt starved")


def test_removing_what_is_not_there_changes_nothing() -> None:
    pool = SlotPool(2)
    scheduler = Scheduler(pool, BUDGET, BESIDE)
    scheduler.remove(sequence(3))
    assert pool.free == 2
