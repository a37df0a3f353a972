"""Sampling against distributions and penalties written down plainly, and seeds that hold in company."""

import asyncio
import math
from collections import Counter
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from modelyard_runtime.engine.base import SamplingParams
from modelyard_runtime.engine.sampler import RowState, distribution, draw, highest, sample

params = st.builds(
    SamplingParams,
    temperature=st.floats(0.2, 3),
    top_p=st.one_of(st.just(1.0), st.floats(0.05, 0.99)),
    top_k=st.integers(0, 40),
    min_p=st.one_of(st.just(0.0), st.floats(0.01, 0.5)),
)


def plain_distribution(scores: list[float], p: SamplingParams) -> list[float]:
    """The definition: temperature, the k best, the fewest that reach top_p, those not below min_p of the best."""
    weights = [math.exp((score - max(scores)) / p.temperature) for score in scores]
    order = sorted(range(len(weights)), key=lambda i: -weights[i])
    kept = order[: p.top_k or None]
    total = sum(weights[i] for i in kept)
    nucleus, mass = [], 0.0
    for i in kept:
        if mass >= p.top_p * total:
            break
        nucleus.append(i)
        mass += weights[i]
    kept = [i for i in nucleus if weights[i] >= p.min_p * weights[order[0]]]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(weights))]


@given(st.lists(params, min_size=1, max_size=4), st.integers(0, 2**16))
def test_rows_follow_their_own_parameters(rows: list[SamplingParams], seed: int) -> None:
    scores = torch.randn(len(rows), 50, generator=torch.Generator().manual_seed(seed)) * 3
    got = distribution(scores, rows)
    got = got / got.sum(-1, keepdim=True)
    for row, row_params in enumerate(rows):
        wanted = torch.tensor(plain_distribution(scores[row].tolist(), row_params))
        # Rounding may move one token over the edge of a nucleus; no more than its own probability may differ.
        assert float((got[row] - wanted).abs().sum()) <= max(
            1e-4, 2.5 * float(wanted[wanted > 0].min()) if (got[row] > 0).sum() != (wanted > 0).sum() else 1e-4
        )


@pytest.mark.parametrize("vocabulary", [7, 128, 640, 1000])
def test_the_highest_score_is_found_with_its_first_token(vocabulary: int) -> None:
    scores = torch.randint(0, 40, (9, vocabulary), generator=torch.Generator().manual_seed(1)).float()
    scores[1] = -torch.inf
    scores[1, vocabulary // 2] = -3
    scores[2, vocabulary - 1] = torch.inf
    scores[3, vocabulary // 3] = torch.nan
    best, tokens = highest(scores)
    assert best[3].isnan()
    for row in (0, 1, 2, 4, 5, 6, 7, 8):
        values = scores[row].tolist()
        assert (float(best[row]), int(tokens[row])) == (max(values), values.index(max(values)))


def test_a_nucleus_wider_than_the_first_look_is_found() -> None:
    scores = torch.zeros(1, 5000)
    got = distribution(scores, [SamplingParams(top_p=0.5)])
    assert (got > 0).sum() == 5000  # all alike: a tie at the edge stays in
    falling = -torch.arange(5000.0)[None] / 5000
    kept = int((distribution(falling, [SamplingParams(top_p=0.5)]) > 0).sum())
    probabilities = falling.softmax(-1)[0]
    assert float(probabilities[:kept].sum()) >= 0.5 > float(probabilities[: kept - 1].sum()) - 1e-4


@pytest.mark.parametrize(
    "chosen",
    [SamplingParams(), SamplingParams(temperature=0.7, top_p=0.8), SamplingParams(min_p=0.1, top_k=6), SamplingParams(temperature=2)],
)
def test_draws_follow_the_distribution(chosen: SamplingParams) -> None:
    """Chi-square over 20,000 seeded draws; the bound is the 99.99 % quantile for 15 degrees of freedom."""
    scores = torch.randn(16, generator=torch.Generator().manual_seed(3))
    count = 20_000
    row = RowState(SamplingParams(seed=11), [])
    tokens = draw(scores.expand(count, -1), [chosen] * count, [row.random.random() for _ in range(count)])
    wanted = plain_distribution(scores.tolist(), chosen)
    seen = Counter(tokens.tolist())
    assert set(seen) <= {token for token, p in enumerate(wanted) if p > 0}
    assert sum((seen[token] - p * count) ** 2 / (p * count) for token, p in enumerate(wanted) if p > 0) < 44.3


@given(st.floats(0, 1, exclude_max=True), st.integers(0, 2**16))
def test_a_draw_never_takes_what_has_no_probability(uniform: float, seed: int) -> None:
    scores = torch.randn(1, 30, generator=torch.Generator().manual_seed(seed)) * 10
    token = draw(scores, [SamplingParams(top_k=3)], [uniform])
    assert int(token) in scores[0].topk(3).indices


@given(
    st.floats(-2, 2),
    st.floats(-2, 2),
    st.floats(0.5, 2),
    st.dictionaries(st.integers(0, 19), st.floats(-100, 100), max_size=4),
    st.integers(0, 2**16),
)
def test_penalties_and_bias_follow_their_definition(
    presence: float, frequency: float, repetition: float, bias: dict[int, float], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    prompt = torch.randint(0, 20, (5,), generator=generator).tolist()
    chosen = SamplingParams(
        temperature=0, presence_penalty=presence, frequency_penalty=frequency, repetition_penalty=repetition, logit_bias=bias
    )
    row, neighbour, answer = RowState(chosen, prompt), RowState(SamplingParams(temperature=0), prompt), []
    for _ in range(8):
        scores = torch.randn(2, 20, generator=generator)
        wanted = scores[0].tolist()
        for token in range(20):
            if token in prompt or token in answer:
                wanted[token] = wanted[token] / repetition if wanted[token] > 0 else wanted[token] * repetition
            wanted[token] -= frequency * answer.count(token) + presence * (token in answer)
            wanted[token] += bias.get(token, 0)
        first, second = sample(scores, [row, neighbour])
        assert first.token_id is not None
        assert wanted[first.token_id] == pytest.approx(max(wanted), abs=1e-4)
        assert second.token_id == int(scores[1].argmax())
        answer.append(first.token_id)


def test_log_probabilities_are_the_models_own() -> None:
    scores = torch.randn(3, 40, generator=torch.Generator().manual_seed(1))
    asked = RowState(SamplingParams(temperature=0.5, seed=1, logprobs=4, presence_penalty=1), [1])
    none, zero = RowState(SamplingParams(temperature=0), []), RowState(SamplingParams(temperature=0, logprobs=0), [])
    first, second, third = sample(scores, [asked, none, zero])
    wanted = scores[0].log_softmax(-1)
    assert first.token_id is not None
    assert first.logprob == pytest.approx(float(wanted[first.token_id]))
    assert [token for token, _ in first.top_logprobs] == wanted.topk(4).indices.tolist()
    assert second.logprob is None
    assert third.logprob is not None
    assert third.top_logprobs == ()


async def test_a_seed_gives_the_same_text_alone_and_in_company(kit: Any) -> None:
    wanted = {"temperature": 1.2, "top_p": 0.95, "seed": 42, "max_tokens": 30}
    async with kit.engine("qwen3") as engine:
        alone = await kit.tokens(engine, [5, 6, 7], **wanted)
        crowd = [kit.tokens(engine, [9 + i] * (3 + 5 * i), temperature=1.0, max_tokens=5 + i) for i in range(6)]
        together, *_ = await asyncio.gather(kit.tokens(engine, [5, 6, 7], **wanted), *crowd)
        other = await kit.tokens(engine, [5, 6, 7], **{**wanted, "seed": 43})
        free = [await kit.tokens(engine, [5, 6, 7], **{**wanted, "seed": None}) for _ in range(2)]
    assert alone == together
    assert alone != other
    assert free[0] != free[1]


async def test_bias_bans_and_forces_tokens_in_the_engine(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        best = (await kit.tokens(engine, [5, 6, 7], max_tokens=1))[0]
        banned = await kit.tokens(engine, [5, 6, 7], max_tokens=20, logit_bias={best: -100.0})
        forced = await kit.tokens(engine, [5, 6, 7], max_tokens=5, temperature=1.0, logit_bias={123: 100.0})
    assert best not in banned
    assert forced == [123] * 5


async def test_stop_tokens_end_an_answer_even_when_the_end_of_sequence_is_ignored(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        answer = await kit.tokens(engine, [5, 6, 7], max_tokens=10)
        stop = answer[4]
        events = await kit.collect(engine, [5, 6, 7], max_tokens=10, stop_token_ids=frozenset({stop}))
    assert [event.token_id for event in events] == answer[: answer.index(stop) + 1]
    assert events[-1].finish_reason == "stop"
