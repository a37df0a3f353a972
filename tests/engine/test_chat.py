"""Conversations to tokens and tokens to text, around a real engine."""

from contextlib import aclosing
from typing import Any

import pytest
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.engine.base import SamplingParams
from modelyard_runtime.models.chat import ChatModel

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


async def text_of(model: ChatModel, prompt: list[int], sampling: SamplingParams, stop: tuple[str, ...] = ()) -> tuple[str, Any]:
    async with aclosing(model.generate("test", prompt, sampling, stop)) as deltas:
        parts = [delta async for delta in deltas]
    assert all(delta.finish_reason is None for delta in parts[:-1])
    assert [token for delta in parts for token in delta.token_ids].__len__() == parts[-1].completion_tokens
    return "".join(delta.text for delta in parts), parts[-1]


async def test_a_conversation_is_answered_in_whole_text(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        model = ChatModel(engine, loaded.tokenizer)
        prompt = await model.encode_chat([{"role": "user", "content": "Hello world"}])
        assert loaded.tokenizer.decode(prompt) == "<|im_start|>user\nHello world<|im_end|>\n<|im_start|>assistant\n"
        text, last = await text_of(model, prompt, GREEDY)
        assert text == model.decode(await kit.tokens(engine, prompt, max_tokens=40))
        assert (last.finish_reason, last.completion_tokens) == ("length", 40)


async def test_a_stop_string_ends_the_answer_before_it_and_frees_the_slot(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded, max_concurrent_sequences=1) as engine:
        model = ChatModel(engine, loaded.tokenizer)
        prompt = await model.encode("Hello world")
        whole, _ = await text_of(model, prompt, GREEDY)
        middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
        text, last = await text_of(model, prompt, GREEDY, stop=("\u2063never", middle))
        assert text == whole[: whole.index(middle)]
        assert last.finish_reason == "stop"
        assert last.completion_tokens <= 40
        await engine.drain()


async def test_the_end_of_sequence_token_counts_and_has_no_text(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        model = ChatModel(engine, loaded.tokenizer)
        prompt = await model.encode("Hello")
        forced = SamplingParams(temperature=0, max_tokens=5, logit_bias={2: 1000.0})
        text, last = await text_of(model, prompt, forced)
        assert (text, last.finish_reason, last.completion_tokens, last.token_ids) == ("", "stop", 1, (2,))


async def test_closing_early_cancels(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded, max_concurrent_sequences=1) as engine:
        model = ChatModel(engine, loaded.tokenizer)
        async with aclosing(model.generate("test", [5, 6], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True))) as deltas:
            await anext(deltas)
        await engine.drain()
        assert engine.stats().generation_tokens_total < 200


async def test_log_probabilities_reach_the_deltas(kit: Any) -> None:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded) as engine:
        model = ChatModel(engine, loaded.tokenizer)
        sampling = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=2)
        async with aclosing(model.generate("test", [5, 6], sampling)) as deltas:
            events = [event async for delta in deltas for event in delta.events]
    assert len(events) == 3
    assert all(event.top_logprobs[0] == (event.token_id, event.logprob) for event in events)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[0].content.__class__.__mro__ }}", "unsafe"),
        ("{% for x in messages[5].content %}{% endfor %}", "messages"),
        (None, "no chat template"),
    ],
)
async def test_what_a_template_refuses_is_the_clients_error(kit: Any, template: str | None, words: str) -> None:
    loaded = kit.load("qwen3")
    loaded.tokenizer.chat_template = template
    async with kit.engine(loaded) as engine:
        with pytest.raises(InvalidRequest, match=words) as refusal:
            await ChatModel(engine, loaded.tokenizer).encode_chat([{"role": "user", "content": "Hello"}])
    assert refusal.value.param == "messages"
