"""Models that the batching engine cannot run answer through `generate` as they would in it."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch
from modelyard_runtime.engine.base import (
    EngineFailed,
    FinishReason,
    GenerationRequest,
    InvalidTokens,
    MediaUnsupported,
    RequestFailed,
    RequestTooLarge,
    SamplingParams,
    UnknownAdapter,
)
from modelyard_runtime.engine.fallback import GenerateEngine
from modelyard_runtime.engine.media import Media
from modelyard_runtime.engine.sampler import RowState, sample
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import OutOfMemory, UnsupportedModel
from modelyard_runtime.models.loading import LoadedModel, load_causal_lm
from transformers import AutoModelForCausalLM

SIZES: dict[str, dict[str, Any]] = {
    "falcon": {"head_dim": None},
    "bloom": {},
    "mamba2": {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1},
    "jamba": {"mamba_dt_rank": 4, "num_experts": 2, "num_hidden_layers": 4, "attn_layer_period": 2, "attn_layer_offset": 1},
}
MEDIA = Media(torch.zeros(3, 7, dtype=torch.long), torch.tensor([1]), torch.zeros(1, 64), (), b"")
PROMPT = [5, 17, 40, 9, 23, 6, 80]


def plain(kit: Any, family: str) -> LoadedModel:
    folder = kit.folder(family, **SIZES.get(family, {}))
    return load_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None, plain=True)


@asynccontextmanager
async def served(
    kit: Any, model: str | LoadedModel = "falcon", deaths: asyncio.Queue[EngineFailed] | None = None, **bounds: Any
) -> AsyncIterator[Any]:
    engine = GenerateEngine(plain(kit, model) if isinstance(model, str) else model, EngineSettings(**{"max_model_length": 256, **bounds}))
    engine.start(None if deaths is None else deaths.put_nowait)
    try:
        yield engine
    finally:
        await engine.stop()


@pytest.mark.parametrize("family", SIZES)
async def test_greedy_answers_are_those_of_generate(kit: Any, family: str) -> None:
    async with served(kit, family) as engine:
        await engine.warm_up()
        assert (engine.stats().steps_total, engine.stats().running) == (0, 0)
        assert await kit.tokens(engine, PROMPT, max_tokens=12) == kit.references(family, [PROMPT], 12)[0].tokens


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 0.9, "seed": 7, "top_p": 0.9, "top_k": 40, "min_p": 0.01},
        {"temperature": 1.3, "seed": 8, "repetition_penalty": 1.3, "presence_penalty": 0.4, "frequency_penalty": 0.2},
        {"temperature": 0.0, "logit_bias": {11: 30.0}},
    ],
)
async def test_our_sampler_chooses_each_token(kit: Any, sampling: dict[str, Any]) -> None:
    async with served(kit) as engine:
        got = await kit.tokens(engine, PROMPT, max_tokens=10, **sampling)
    library = AutoModelForCausalLM.from_pretrained(kit.folder("falcon"), dtype=torch.float32).eval()
    row, tokens = RowState(SamplingParams(**sampling), PROMPT), list(PROMPT)
    with torch.inference_mode():
        for _ in range(10):
            tokens.append(sample(library(torch.tensor([tokens])).logits[:, -1], [row])[0].token_id)
    assert got == tokens[len(PROMPT) :]


async def test_log_probabilities_of_prompt_and_answer(kit: Any) -> None:
    async with served(kit) as engine:
        first, *others = await kit.collect(engine, PROMPT, max_tokens=3, logprobs=2, prompt_logprobs=1)
        scored = await kit.collect(engine, PROMPT, max_tokens=0, prompt_logprobs=1)
    library = AutoModelForCausalLM.from_pretrained(kit.folder("falcon"), dtype=torch.float32).eval()
    with torch.inference_mode():
        expected = library(torch.tensor([[*PROMPT, first.token_id]])).logits[0].log_softmax(-1)
    assert [score.token_id for score in first.prompt_logprobs] == PROMPT[1:]
    for place, score in enumerate(first.prompt_logprobs):
        assert score.logprob == pytest.approx(float(expected[place, score.token_id]), abs=1e-4)
    assert first.logprob == pytest.approx(float(expected[len(PROMPT) - 1, first.token_id]), abs=1e-4)
    assert len(first.top_logprobs) == 2
    assert all(event.prompt_logprobs is None for event in others)
    assert [(event.token_id, event.finish_reason) for event in scored] == [(None, FinishReason.LENGTH)]
    assert scored[0].prompt_logprobs == first.prompt_logprobs


async def test_answers_end_at_stop_tokens_and_at_the_end_of_sequence(kit: Any) -> None:
    async with served(kit) as engine:
        tokens = await kit.tokens(engine, PROMPT, max_tokens=12)
        at = next(place for place, token in enumerate(tokens) if token not in tokens[:place] and place > 0)
        events = await kit.collect(engine, PROMPT, max_tokens=12, stop_token_ids=frozenset({tokens[at]}))
        assert ([event.token_id for event in events], events[-1].ends_text) == (tokens[: at + 1], True)
        forced = {"logit_bias": {2: 100.0}, "max_tokens": 4}
        ended = await kit.collect(engine, PROMPT, ignore_eos=False, **forced)
        assert [(event.token_id, event.finish_reason) for event in ended] == [(2, FinishReason.STOP)]
        assert await kit.tokens(engine, PROMPT, **forced) == [2] * 4


async def test_one_at_a_time_and_a_cancelled_one_leaves_within_a_step(kit: Any) -> None:
    async with served(kit) as engine:
        endless = engine.submit(kit.request(PROMPT, max_tokens=240))
        await anext(endless)
        gone = engine.submit(kit.request(PROMPT, max_tokens=240))
        waiting = asyncio.create_task(kit.tokens(engine, PROMPT, max_tokens=3))
        await asyncio.sleep(0)
        assert (engine.stats().running, engine.stats().waiting) == (1, 2)
        await gone.aclose()
        await endless.aclose()
        await endless.aclose()
        assert len(await waiting) == 3
        await engine.drain()
        assert engine.stats().steps_total < 240
        assert (engine.stats().running, engine.stats().waiting) == (0, 0)


async def test_what_only_the_batching_engine_does_is_refused_by_name(kit: Any) -> None:
    async with served(kit) as engine:
        greedy = SamplingParams(temperature=0)
        with pytest.raises(UnknownAdapter, match=r"adapter 'mine'.*batching engine"):
            engine.submit(GenerationRequest("a", PROMPT, greedy, lora="mine"))
        with pytest.raises(MediaUnsupported, match="send text only"):
            engine.submit(GenerationRequest("a", PROMPT, greedy, media=MEDIA))
        with pytest.raises(RequestTooLarge, match="limit of 256 tokens"):
            engine.submit(kit.request(PROMPT, max_tokens=250))
        with pytest.raises(InvalidTokens, match="prompt"):
            engine.submit(kit.request([10**9]))
        assert engine.adapter_names == ()


async def test_memory_that_runs_out_fails_one_request(kit: Any) -> None:
    model = plain(kit, "falcon")
    async with served(kit, model) as engine:
        steps = 0

        def scarce(*_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps == 3:
                raise MemoryError("can't allocate memory")

        hook = model.model.register_forward_pre_hook(scarce)
        stream = engine.submit(kit.request(PROMPT, max_tokens=8))
        await anext(stream)
        await anext(stream)
        with pytest.raises(RequestFailed, match="memory ran out at token 9"):
            await anext(stream)
        assert len(await kit.tokens(engine, PROMPT, max_tokens=4)) == 4
        hook.remove()
        assert engine.failure is None


async def test_an_error_of_the_models_fails_its_request_and_a_broken_model_is_the_end(kit: Any) -> None:
    model, deaths, lasting = plain(kit, "falcon"), asyncio.Queue[EngineFailed](), False
    async with served(kit, model, deaths) as engine:

        def broken(*_: Any) -> None:
            if not lasting:
                hook.remove()
            raise ValueError("no such luck")

        hook = model.model.register_forward_pre_hook(broken)
        with pytest.raises(EngineFailed, match="no such luck"):
            await kit.tokens(engine, PROMPT, max_tokens=4)
        assert len(await kit.tokens(engine, PROMPT, max_tokens=4)) == 4
        assert (engine.stats().restarts_total, deaths.empty()) == (1, True)
        lasting, hook = True, model.model.register_forward_pre_hook(broken)
        with pytest.raises(EngineFailed, match="no such luck"):
            await kit.tokens(engine, PROMPT, max_tokens=4)
        assert await deaths.get() is engine.failure
        with pytest.raises(EngineFailed, match="no such luck"):
            await anext(engine.submit(kit.request(PROMPT)))


async def test_a_step_that_does_not_end_is_noticed(kit: Any) -> None:
    model, died, held = plain(kit, "falcon"), asyncio.Event(), threading.Event()
    engine = GenerateEngine(model, EngineSettings(max_model_length=64, step_timeout=0.3))
    engine.start(lambda failure: died.set())
    hook = model.model.register_forward_pre_hook(lambda *_: held.wait(60) and None)
    with pytest.raises(EngineFailed, match="did not end within"):
        await kit.tokens(engine, PROMPT, max_tokens=4)
    await died.wait()
    held.set()
    hook.remove()
    await engine.stop()


async def test_stopping_fails_what_is_in_flight(kit: Any) -> None:
    async with served(kit) as engine:
        stream = engine.submit(kit.request(PROMPT, max_tokens=240))
        await anext(stream)
        await engine.stop()
        with pytest.raises(EngineFailed, match="stopped"):
            async for _ in stream:
                pass


def test_a_model_that_does_not_generate_is_refused(kit: Any) -> None:
    model = plain(kit, "falcon")
    model.model.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(UnsupportedModel, match="does not generate: ZeroDivisionError"):
        GenerateEngine(model, EngineSettings())


def test_a_model_that_does_not_fit_says_so(kit: Any) -> None:
    model = plain(kit, "falcon")

    def scarce(*_: Any) -> None:
        raise MemoryError

    model.model.register_forward_pre_hook(scarce)
    with pytest.raises(OutOfMemory, match="FalconForCausalLM does not fit"):
        GenerateEngine(model, EngineSettings())


def test_layers_made_for_the_batching_engine_are_found_out(kit: Any) -> None:
    with pytest.raises(UnsupportedModel, match=r"with its cache, log probabilities differ|does not generate"):
        GenerateEngine(kit.load("llama"), EngineSettings())
    assert GenerateEngine(plain(kit, "llama"), EngineSettings()).max_model_length == 512
