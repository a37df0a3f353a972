"""Guesses from the text: what is guessed, when, and that answers are what they are without."""

import asyncio
from typing import Any

import pytest
from modelyard_runtime.engine.speculation import Speculator


def sure() -> Speculator:
    """One whose guesses were always right so far."""
    speculator = Speculator()
    speculator.learn(100, 100)
    return speculator


def test_what_followed_the_last_time_is_guessed() -> None:
    text = [1, 2, 3, 4, 5, 9, 1, 2, 3, 7, 9, 1, 2, 3]
    assert sure().draft(text, 4, rows=1) == (7, 9, 1, 2)
    assert sure().draft(text[:-1], 4, rows=1) == (3, 7, 9, 1)
    assert sure().draft([1, 2, 3, 4], 4, rows=1) == ()
    assert sure().draft([1], 4, rows=1) == ()


def test_text_that_repeats_is_guessed_past_its_end() -> None:
    assert sure().draft([5, 8, 5, 8, 5, 8], 5, rows=1) == (5, 8, 5, 8, 5)
    assert sure().draft([5] * 4, 3, rows=1) == (5, 5, 5)


def test_text_is_read_as_it_grows() -> None:
    speculator, text = sure(), [1, 2, 3, 4]
    assert speculator.draft(text, 2, rows=1) == ()
    for token in (1, 2, 3):
        text.append(token)
        found = speculator.draft(text, 2, rows=1)
    assert found == (4, 1)


def test_the_more_rows_a_step_has_the_surer_guesses_must_be() -> None:
    def guesses(accepted: int, rows: int) -> int:
        speculator = Speculator()
        for _ in range(60):
            speculator.learn(4, accepted)
        return len(speculator.draft([5] * 9, 4, rows))

    assert [guesses(4, rows) for rows in (1, 8, 64)] == [4, 4, 4]
    assert [guesses(1, rows) for rows in (1, 8, 64)] == [3, 1, 0]
    assert [guesses(0, rows) for rows in (1, 8, 64)] == [0, 0, 0]


def test_guesses_begin_when_those_that_stayed_unused_were_right() -> None:
    speculator, text = Speculator(), [5] * 4
    sizes = []
    for _ in range(30):
        sizes.append(len(speculator.draft(text, 4, rows=8)))
        speculator.learn(sizes[-1], sizes[-1])
        text.append(5)
    assert sizes[0] == 0
    assert sizes[-1] == 4
    assert sizes == sorted(sizes)


def test_guesses_end_when_they_are_wrong_and_cost_nothing_then() -> None:
    speculator, text = sure(), [5, 6, 7, 8] * 3
    tries = 0
    for odd in range(100, 140):
        drafts = speculator.draft([*text, 5, 6, 7], 4, rows=8)
        tries += bool(drafts)
        speculator.learn(len(drafts), 0)
        text += [5, 6, 7, odd]
    assert 0 < tries < 15


SAMPLED = {"temperature": 0.6, "seed": 11, "frequency_penalty": 0.4, "logit_bias": {5: 4.0, 6: 4.0, 7: 4.0}, "logprobs": 2}


@pytest.mark.parametrize("sampling", [{}, SAMPLED, {**SAMPLED, "temperature": 0.0}], ids=["greedy", "sampled", "penalised"])
async def test_answers_are_the_same_with_and_without(kit: Any, sampling: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = [[5, 6, 7] * 6 + [i] for i in range(3, 9)]
    loaded = kit.load("mistral")
    async with kit.engine(loaded) as engine:
        wanted = await asyncio.gather(*(kit.collect(engine, prompt, max_tokens=30, **sampling) for prompt in prompts))
    known = {
        tuple(p + [e.token_id for e in w][:n]): [e.token_id for e in w][n:] for p, w in zip(prompts, wanted, strict=True) for n in range(30)
    }

    def draft(_: Speculator, tokens: list[int], count: int, rows: int) -> tuple[int, ...]:
        return (*known.get(tuple(tokens), [])[: count - 1], 9)[:count]

    monkeypatch.setattr(Speculator, "draft", draft)
    async with kit.engine(loaded, speculative_tokens=3) as engine:
        got = await asyncio.gather(*(kit.collect(engine, prompt, max_tokens=30, **sampling) for prompt in prompts))
        stats = engine.stats()
    assert [[event.token_id for event in events] for events in got] == [[event.token_id for event in events] for events in wanted]
    assert all(
        event.logprob == pytest.approx(other.logprob, abs=1e-3) and len(event.top_logprobs) == len(other.top_logprobs)
        for events, others in zip(got, wanted, strict=True)
        for event, other in zip(events, others, strict=True)
    )
    assert stats.accepted_tokens_total > 60
    assert stats.draft_tokens_total > stats.accepted_tokens_total
    assert stats.drafts_total < stats.draft_tokens_total <= 3 * stats.drafts_total
    assert (sum(stats.steps_by_size), stats.step_tokens_total) == (stats.steps_total, sum(map(len, prompts)) + 6 * 30)
    assert stats.generation_tokens_total == 6 * 30
    assert stats.steps_total < 6 * 30


async def test_a_stop_inside_a_guess_ends_the_answer_there(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = kit.load("mistral")
    async with kit.engine(loaded) as engine:
        wanted = await kit.tokens(engine, [5, 6, 7], max_tokens=12)
    monkeypatch.setattr(Speculator, "draft", lambda _, tokens, count, rows: tuple(wanted[len(tokens) - 3 :][:count]))
    async with kit.engine(loaded, speculative_tokens=8) as engine:
        events = await kit.collect(engine, [5, 6, 7], max_tokens=12, stop_token_ids=frozenset({wanted[5]}))
        short = await kit.tokens(engine, [5, 6, 7], max_tokens=4)
    assert [event.token_id for event in events] == wanted[: wanted.index(wanted[5]) + 1]
    assert (events[-1].finish_reason, events[-1].ends_text) == ("stop", True)
    assert short == wanted[:4]
