"""Greedy output equals `model.generate` in float32, token for token, alone and in company.

A different token counts as a failure unless the reference's best two scores are closer than `TIE`: batch size and weight layout change the
order of additions, by at most 5e-4 in SmolLM2's scores. From such a tie on the texts are different ones, and the row is compared no more.
"""

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from modelyard_runtime.engine.attention import NAME
from transformers import AttentionInterface

TIE = 2e-3
FAMILIES = ("qwen3", "llama", "gemma2", "gemma3_text", "mistral", "gpt_oss")


def compared(tokens: list[int], reference: Any) -> int:
    """Returns how many tokens were compared and equal; fails at a difference that is no tie."""
    assert len(tokens) == len(reference.tokens)
    for index, (token, wanted, gap) in enumerate(zip(tokens, reference.tokens, reference.gaps, strict=True)):
        if token != wanted:
            assert gap < TIE, f"token {index} is {token} instead of {wanted}, whose score leads by {gap}"
            return index
    return len(tokens)


def prompts_for(seed: int, count: int, longest: int, vocabulary: int = 250) -> list[list[int]]:
    chance = random.Random(seed)
    return [[chance.randrange(3, vocabulary) for _ in range(chance.randrange(1, longest))] for _ in range(count)]


async def strangers(kit: Any, engine: Any, stop: asyncio.Event, seed: int) -> None:
    """Joins and leaves until told to stop: some requests run to their end, others are cancelled on the way."""
    chance = random.Random(seed)
    while not stop.is_set():
        prompt = [chance.randrange(3, 250) for _ in range(chance.randrange(1, 60))]
        stream = engine.submit(kit.request(prompt, temperature=chance.choice([0.0, 1.0]), max_tokens=chance.randrange(1, 12)))
        patience = chance.randrange(1, 14)
        async for _ in stream:
            patience -= 1
            if patience == 0:
                await stream.aclose()


async def among_strangers(kit: Any, engine: Any, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    stop = asyncio.Event()
    company = [asyncio.create_task(strangers(kit, engine, stop, seed)) for seed in range(3)]
    try:
        return await asyncio.gather(*(kit.tokens(engine, prompt, max_tokens=new_tokens) for prompt in prompts))
    finally:
        stop.set()
        await asyncio.gather(*company)


@pytest.mark.parametrize("family", FAMILIES)
async def test_greedy_equals_generate(kit: Any, family: str) -> None:
    prompts = prompts_for(seed=5, count=6, longest=70)
    references = kit.references(family, prompts, new_tokens=24)
    async with kit.engine(family, prefill_tokens=32, prefill_tokens_beside_decodes=16) as engine:
        alone = [await kit.tokens(engine, prompt, max_tokens=24) for prompt in prompts]
        company = await among_strangers(kit, engine, prompts, new_tokens=24)
    equal = [compared(tokens, reference) for tokens, reference in zip(alone + company, references * 2, strict=True)]
    assert sum(equal) >= 0.9 * len(equal) * 24


@pytest.mark.parametrize("family", FAMILIES)
async def test_every_layer_of_every_step_uses_our_attention(kit: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ours = AttentionInterface()[NAME]
    calls: Counter[int] = Counter()

    def counted(module: Any, *args: Any, **kwargs: Any) -> Any:
        calls[module.layer_idx] += 1
        return ours(module, *args, **kwargs)

    monkeypatch.setitem(AttentionInterface._global_mapping, NAME, counted)
    async with kit.engine(family) as engine:
        calls.clear()
        await asyncio.gather(*(kit.tokens(engine, [5, 6, 7 + i], max_tokens=6) for i in range(3)))
        assert calls == dict.fromkeys(range(3), engine.stats().steps_total)


@pytest.mark.timeout(600)
async def test_smollm2_equals_generate(kit: Any, smollm2: Path) -> None:
    loaded = kit.load(smollm2)
    questions = ["What is the capital of France?", "Count from one to twenty. " * 12, "Hi"]
    prompts = [
        loaded.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False)
        for text in questions
    ]
    references = kit.references(smollm2, prompts, new_tokens=20)
    async with kit.engine(loaded, max_model_length=512, prefill_tokens=96, prefill_tokens_beside_decodes=48) as engine:
        alone = [await kit.tokens(engine, prompt, max_tokens=20) for prompt in prompts]
        company = await among_strangers(kit, engine, prompts, new_tokens=20)
    equal = [compared(tokens, reference) for tokens, reference in zip(alone + company, references * 2, strict=True)]
    assert sum(equal) >= 0.9 * len(equal) * 20
    assert "Paris" in loaded.tokenizer.decode(alone[0])


async def test_an_answer_ends_at_the_end_of_sequence_token(kit: Any) -> None:
    loaded = kit.load("llama")
    prompts = prompts_for(seed=9, count=40, longest=12)
    async with kit.engine(loaded) as engine:
        answers = await asyncio.gather(
            *(kit.collect(engine, prompt, max_tokens=60, temperature=3.0, seed=1, ignore_eos=False) for prompt in prompts)
        )
    ended = [events for events in answers if events[-1].token_id == 2]
    assert ended
    assert all(events[-1].finish_reason == "stop" for events in ended)
    assert all(event.token_id != 2 for events in answers for event in events[:-1])
    assert all(len(events) == 60 and events[-1].finish_reason == "length" for events in answers if events[-1].token_id != 2)
