"""Greedy output equals `model.generate` in float32, token for token, alone and in company, with everything on that saves work.

A different token counts as a failure unless the reference's best two scores are closer than `TIE`: batch size and weight layout change the
order of additions, by at most 5e-4 in SmolLM2's scores. From such a tie on the texts are different ones, and the row is compared no more.
"""

import asyncio
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_runtime.engine.attention import NAME
from modelyard_runtime.engine.speculation import Speculator
from modelyard_runtime.models.packing import PackedLinear
from transformers import AttentionInterface, AutoModelForCausalLM

TIE = 2e-3
#: Requests to the real model; `make equality` has 64.
REAL_REQUESTS = int(os.environ.get("MODELYARD_EQUALITY_REQUESTS", "6"))
#: Families whose answers are promised; those after them come along.
NAMED = ("qwen3", "llama", "gemma3_text", "mistral")
FAMILIES = (*NAMED, "gemma2", "gpt_oss")


def compared(tokens: list[int], reference: Any) -> int:
    """Returns how many tokens were compared and equal; fails at a difference that is no tie. A cancelled request has fewer tokens."""
    assert len(tokens) <= len(reference.tokens)
    for index, (token, wanted, gap) in enumerate(zip(tokens, reference.tokens, reference.gaps, strict=False)):
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
    prompts = prompts_for(seed=5, count=3, longest=70)
    references = kit.references(family, prompts, new_tokens=24)
    async with kit.engine(family, prefill_tokens=32, prefill_tokens_beside_decodes=16) as engine:
        alone = [await kit.tokens(engine, prompt, max_tokens=24) for prompt in prompts]
        company = await among_strangers(kit, engine, prompts, new_tokens=24)
    equal = [compared(tokens, reference) for tokens, reference in zip(alone + company, references * 2, strict=True)]
    assert sum(equal) >= 0.9 * len(equal) * 24


async def test_weights_that_come_in_16_bits_answer_as_the_same_in_32(kit: Any, tmp_path: Path) -> None:
    shutil.copytree(kit.folder("qwen3"), tmp_path, dirs_exist_ok=True)
    AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16).save_pretrained(tmp_path)
    prompts = prompts_for(seed=6, count=14, longest=40)
    references = kit.references(tmp_path, prompts, new_tokens=16)
    loaded = kit.load(tmp_path)
    assert all(layer.narrow is not None for layer in loaded.model.modules() if isinstance(layer, PackedLinear))
    async with kit.engine(loaded, max_concurrent_sequences=14) as engine:
        alone = [await kit.tokens(engine, prompt, max_tokens=16) for prompt in prompts[:3]]
        company = await asyncio.gather(*(kit.tokens(engine, prompt, max_tokens=16) for prompt in prompts))
    equal = [compared(tokens, reference) for tokens, reference in zip(alone + company, references[:3] + references, strict=True)]
    assert sum(equal) >= 0.9 * len(equal) * 16


#: Memory for a few of the requests at once, prompts in several chunks, guesses, prefixes: all that could make an answer another one.
TRICKS = {"prefill_tokens": 48, "prefill_tokens_beside_decodes": 24, "speculative_tokens": 4, "max_concurrent_sequences": 8}


def related_prompts(seed: int, count: int, longest: int, vocabulary: int = 250) -> list[list[int]]:
    """Prompts that begin alike, some of them with text that repeats itself."""
    chance = random.Random(seed)
    beginnings = [[chance.randrange(3, vocabulary) for _ in range(longest // 2)] for _ in range(3)]
    prompts = []
    for _ in range(count):
        beginning = chance.choice(beginnings)[: chance.choice([0, 20, longest // 2])]
        phrase = [chance.randrange(3, vocabulary) for _ in range(chance.randrange(1, 12))]
        rest = (phrase * chance.randrange(1, 4))[: longest - len(beginning)]
        prompts.append(beginning + rest)
    return prompts


async def crowd(
    kit: Any, engine: Any, prompts: list[list[int]], *, requests: int, new_tokens: int, at_once: int = 12
) -> list[tuple[int, list[int]]]:
    """Has requests come and go at random, a third of them cancelled on the way; returns which prompt each had and what it got."""
    chance = random.Random(7)
    doors = asyncio.Semaphore(at_once)
    got: list[tuple[int, list[int]]] = []

    async def visitor(which: int, patience: int) -> None:
        async with doors:
            stream, tokens = engine.submit(kit.request(prompts[which], max_tokens=new_tokens)), []
            got.append((which, tokens))
            while len(tokens) < patience:
                try:
                    tokens.append((await anext(stream)).token_id)
                except StopAsyncIteration:
                    return
            await stream.aclose()

    plans = [(i % len(prompts), chance.choice([new_tokens + 1, new_tokens + 1, chance.randrange(new_tokens)])) for i in range(requests)]
    chance.shuffle(plans)
    await asyncio.gather(*(visitor(*plan) for plan in plans))
    return got


def check_crowd(engine: Any, got: list[tuple[int, list[int]]], references: list[Any], *, preempted: bool = True) -> None:
    stats = engine.stats()
    assert min(stats.prefix_cache_hits_total, stats.accepted_tokens_total) > 0, stats
    assert stats.preemptions_total > 0 or not preempted
    assert stats.draft_tokens_total > stats.accepted_tokens_total
    equal = [compared(tokens, references[which]) for which, tokens in got]
    assert sum(equal) >= 0.9 * sum(len(tokens) for _, tokens in got)
    assert engine._core.table.taken == engine._core.table.held == 0


def half_right(prompts: list[list[int]], references: list[Any]) -> Any:
    """Returns a stand-in for `Speculator.draft` that knows the answers and spoils half of its guesses: random weights repeat nothing."""
    chance = random.Random(3)
    known = {}
    for prompt, reference in zip(prompts, references, strict=True):
        text = prompt + reference.tokens
        known |= {tuple(text[:end]): text[end:] for end in range(len(prompt), len(text))}

    def draft(_: Any, tokens: list[int], count: int, __: int) -> tuple[int, ...]:
        guess = known.get(tuple(tokens), [])[:count]
        if guess and chance.random() < 0.5:
            guess[chance.randrange(len(guess))] = 9
        return tuple(guess)

    return draft


#: Where keys and values lie, and how many requests prove it. Pages of three blocks: some of what is shared is copied, some is not.
MEMORIES = [({}, 64), ({"kv_cache": "paged", "page_tokens": 48}, 24)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("memory", "requests"), MEMORIES, ids=["slots", "pages"])
async def test_a_crowd_gets_what_generate_says_with_every_trick_on(
    kit: Any, family: str, memory: dict[str, Any], requests: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = related_prompts(seed=11, count=12, longest=70)
    references = kit.references(family, prompts, new_tokens=28)
    monkeypatch.setattr(Speculator, "draft", half_right(prompts, references))
    async with kit.engine(family, max_model_length=112, kv_cache_tokens=256, **TRICKS, **memory) as engine:
        got = await crowd(kit, engine, prompts, requests=requests if family in NAMED else 24, new_tokens=28)
        await kit.settled(engine)
        check_crowd(engine, got, references)


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
    questions = ["What is the capital of France?", "Count from one to twenty. " * 12, "Repeat ten times: the cat sat on the mat."]
    prompts = [
        loaded.tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True, return_dict=False)
        for text in questions
    ]
    references = kit.references(smollm2, prompts, new_tokens=20)
    async with kit.engine(loaded, max_model_length=192, kv_cache_tokens=256, **TRICKS) as engine:
        got = await crowd(kit, engine, prompts, requests=REAL_REQUESTS, new_tokens=20, at_once=3 if REAL_REQUESTS < 64 else 12)
        await kit.settled(engine)
        check_crowd(engine, got, references, preempted=REAL_REQUESTS >= 64)
    assert "Paris" in loaded.tokenizer.decode(references[0].tokens)


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
