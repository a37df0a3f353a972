"""What is sampled against exact probabilities, worked out in NumPy from the definitions alone: chi-square, and no token that may not come.

https://en.wikipedia.org/wiki/Pearson%27s_chi-squared_test. Everything is seeded, so that a test passes always or never.
"""

import asyncio
from typing import Any

import numpy as np
import pytest
import torch
from modelyard_runtime.engine.base import SamplingParams
from modelyard_runtime.engine.sampler import RowState, sample
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM

_VOCABULARY = 64
_DRAWS = 4000
#: Classes with fewer expected draws are taken together: below that the statistic is not chi-square.
_FEWEST = 5.0


def exact(logits: NDArray[np.float64], p: SamplingParams, said: tuple[int, ...] = ()) -> NDArray[np.float64]:
    """The definition, one rule after the other: bias, penalties for what was said, temperature, the k best, the nucleus, min-p."""
    scores = logits.copy()
    for token in set(said):
        scores[token] = scores[token] / p.repetition_penalty if scores[token] > 0 else scores[token] * p.repetition_penalty
    for token, bias in p.logit_bias.items():
        scores[token] += bias
    weights = np.exp((scores - scores.max()) / p.temperature)
    order = np.argsort(-weights)
    keep = np.zeros(len(weights), dtype=bool)
    keep[order[: p.top_k or None]] = True
    weights = np.where(keep, weights, 0) / weights[keep].sum()
    before = np.cumsum(weights[order]) - weights[order]
    nucleus = order[before < p.top_p]
    weights = np.where(np.isin(np.arange(len(weights)), nucleus), weights, 0)
    weights = np.where(weights >= p.min_p * weights.max(), weights, 0)
    result: NDArray[np.float64] = weights / weights.sum()
    return result


def assert_follows(draws: list[int], probabilities: NDArray[np.float64]) -> None:
    """Raises unless the draws are as the probabilities say, at odds of 1 to 100,000."""
    counts = np.bincount(draws, minlength=len(probabilities)).astype(float)
    assert counts[probabilities == 0].sum() == 0, "a token that may not come"
    expected = probabilities * len(draws)
    rare = expected < _FEWEST
    seen, wanted = np.append(counts[~rare], counts[rare].sum()), np.append(expected[~rare], expected[rare].sum())
    used = wanted > 0
    statistic = ((seen[used] - wanted[used]) ** 2 / wanted[used]).sum()
    freedom = used.sum() - 1
    # Wilson and Hilferty: the cube root of chi-square over its freedom is nearly normal; 4.27 is the quantile of 1 - 1e-5.
    bound = freedom * (1 - 2 / (9 * freedom) + 4.27 * np.sqrt(2 / (9 * freedom))) ** 3 if freedom else 1e-9
    assert statistic <= bound, f"chi-square {statistic:.1f} of {freedom} degrees of freedom, at most {bound:.1f}"


CASES = {
    "plain": {},
    "cold": {"temperature": 0.3},
    "hot": {"temperature": 2.0},
    "top_p": {"top_p": 0.7},
    "narrow top_p": {"top_p": 0.05},
    "top_k": {"top_k": 7},
    "top_k of one": {"top_k": 1},
    "min_p": {"min_p": 0.1},
    "min_p of one": {"min_p": 1.0},
    "all": {"temperature": 0.8, "top_p": 0.9, "top_k": 20, "min_p": 0.05},
    "hot and bounded": {"temperature": 1.7, "top_p": 0.6, "min_p": 0.02},
    "bias": {"logit_bias": {3: 5.0, 9: -100.0}},
    "repetition": {"repetition_penalty": 1.6},
}


def test_the_reference_itself() -> None:
    """Three tokens of 0.5, 0.3 and 0.2, by hand."""
    logits = np.log(np.array([0.5, 0.3, 0.2]))
    assert exact(logits, SamplingParams(top_p=0.5)) == pytest.approx([1, 0, 0])
    assert exact(logits, SamplingParams(top_p=0.51)) == pytest.approx([0.625, 0.375, 0])
    assert exact(logits, SamplingParams(top_k=2)) == pytest.approx([0.625, 0.375, 0])
    assert exact(logits, SamplingParams(min_p=0.5)) == pytest.approx([0.625, 0.375, 0])
    assert exact(logits, SamplingParams(temperature=0.5)) == pytest.approx(np.array([0.25, 0.09, 0.04]) / 0.38)


def test_the_test_can_fail() -> None:
    """Draws of temperature 1 are not taken for those of 1.2."""
    logits = np.random.default_rng(3).normal(size=_VOCABULARY) * 2
    draws = np.random.default_rng(4).choice(_VOCABULARY, _DRAWS, p=exact(logits, SamplingParams()))
    assert_follows(draws.tolist(), exact(logits, SamplingParams()))
    with pytest.raises(AssertionError, match="chi-square"):
        assert_follows(draws.tolist(), exact(logits, SamplingParams(temperature=1.2)))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sampler_follows_the_exact_probabilities(case: str) -> None:
    """Rows of the case beside rows of all the others, as they come in one step of the engine."""
    logits = np.random.default_rng(sum(map(ord, case))).normal(size=_VOCABULARY) * 2
    said = (1, 5, 5, 8)
    others = [SamplingParams(**more) for name, more in CASES.items() if name != case]
    draws: list[int] = []
    for start in range(0, _DRAWS, 500):
        mine = [RowState(SamplingParams(**CASES[case], seed=seed), said) for seed in range(start, start + 500)]
        rows = [*mine, *(RowState(params, said) for params in others)]
        scores = torch.tensor(logits, dtype=torch.float32).expand(len(rows), -1)
        draws += [sampled.token_id for sampled in sample(scores, rows)[: len(mine)] if sampled.token_id is not None]
    assert len(draws) == _DRAWS
    assert_follows(draws, exact(logits, SamplingParams(**CASES[case]), said))


@pytest.mark.parametrize("case", ["plain", "all"])
async def test_the_engine_follows_the_exact_probabilities(kit: Any, case: str) -> None:
    """A few hundred one-token answers, batched with each other, against the probabilities of plain Transformers' scores."""
    prompt = [5, 6, 7, 8]
    plain = AutoModelForCausalLM.from_pretrained(kit.folder("qwen3"), dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = plain(torch.tensor([prompt])).logits[0, -1].double().numpy()
    wanted = CASES[case] | {"temperature": 2.0}
    async with kit.engine("qwen3") as engine:
        answers = await asyncio.gather(*(kit.tokens(engine, prompt, **wanted, seed=seed, max_tokens=1) for seed in range(400)))
    assert_follows([answer[0] for answer in answers], exact(logits, SamplingParams(**wanted)))
