"""Log probabilities of a prompt's tokens."""

import asyncio
from typing import Any

import pytest
import torch


async def scored(kit: Any, engine: Any, prompt: list[int], **sampling: Any) -> Any:
    events = await kit.collect(engine, prompt, **sampling)
    assert all(event.prompt_logprobs is None for event in events[1:])
    return events[0]


async def test_they_are_the_model_s_own_read_in_chunks_and_in_company(kit: Any) -> None:
    loaded = kit.load("qwen3")
    prompts = [[(7 * i + k) % 200 + 3 for i in range(40)] for k in range(4)]
    with torch.inference_mode():
        loaded.model.set_attn_implementation("eager")
        expected = [loaded.model(input_ids=torch.tensor([prompt])).logits[0].log_softmax(-1) for prompt in prompts]
    async with kit.engine(loaded, prefill_tokens=24, prefill_tokens_beside_decodes=8) as engine:
        events = await asyncio.gather(*(scored(kit, engine, prompt, max_tokens=3, prompt_logprobs=2) for prompt in prompts))
    for prompt, event, rows in zip(prompts, events, expected, strict=True):
        assert [score.token_id for score in event.prompt_logprobs] == prompt[1:]
        for score, row in zip(event.prompt_logprobs, rows, strict=False):
            assert score.logprob == pytest.approx(float(row[score.token_id]), abs=1e-3)
            assert [token for token, _ in score.top_logprobs] == row.topk(2).indices.tolist()
        assert event.token_id is not None


async def test_a_prompt_may_be_scored_and_nothing_generated(kit: Any) -> None:
    async with kit.engine("qwen3") as engine:
        (event,) = await kit.collect(engine, [5, 6, 7], max_tokens=0, prompt_logprobs=0)
        assert (event.token_id, event.finish_reason, len(event.prompt_logprobs)) == (None, "length", 2)
        assert event.prompt_logprobs[0].top_logprobs == ()
        (event,) = await kit.collect(engine, [5], max_tokens=0, prompt_logprobs=1)
        assert event.prompt_logprobs == ()
        assert engine.stats().generation_tokens_total == 0


async def test_nothing_is_taken_from_the_cache_for_them_and_what_they_leave_there_is(kit: Any) -> None:
    prompt = [(5 * i) % 200 + 3 for i in range(40)]
    async with kit.engine("qwen3") as engine:
        first, again, plain = [await scored(kit, engine, prompt, max_tokens=1, prompt_logprobs=n) for n in (1, 1, None)]
        assert [len(event.prompt_logprobs) for event in (first, again)] == [39, 39]
        assert (again.cached_tokens, plain.cached_tokens, plain.prompt_logprobs) == (0, 32, None)
        assert plain.token_id == first.token_id


async def test_they_survive_preemption(kit: Any) -> None:
    prompts = [[(7 * i + k) % 200 + 3 for i in range(30)] for k in range(4)]
    async with kit.engine("qwen3") as engine:
        wanted = [await scored(kit, engine, prompt, max_tokens=40, prompt_logprobs=0) for prompt in prompts]
    async with kit.engine("qwen3", max_model_length=80, kv_cache_tokens=160, prefill_tokens=16) as engine:
        got = await asyncio.gather(*(scored(kit, engine, prompt, max_tokens=40, prompt_logprobs=0) for prompt in prompts))
        assert engine.stats().preemptions_total > 0
    for event, other in zip(got, wanted, strict=True):
        assert [score.logprob for score in event.prompt_logprobs] == pytest.approx(
            [score.logprob for score in other.prompt_logprobs], abs=1e-3
        )
