"""Conversations to tokens and tokens to text, around a real engine."""

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.models.answer import Content, Part, PlainParser
from modelyard_runtime.models.answer_reader import AnswerReader
from modelyard_runtime.models.chat import ChatModel
from modelyard_runtime.models.prompt import ChatPrompt

GREEDY = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True)


@asynccontextmanager
async def chat_model(kit: Any, **bounds: int) -> AsyncIterator[ChatModel]:
    loaded = kit.load("qwen3")
    async with kit.engine(loaded, **bounds) as engine:
        model = ChatModel(engine, loaded.tokenizer)
        try:
            yield model
        finally:
            model.close()


async def text_of(model: ChatModel, prompt: list[int], sampling: SamplingParams, stop: tuple[str, ...] = ()) -> tuple[str, Any]:
    async with aclosing(model.generate(GenerationRequest("test", prompt, sampling), stop)) as deltas:
        parts = [delta async for delta in deltas]
    assert all(delta.finish_reason is None for delta in parts[:-1])
    assert [token for delta in parts for token in delta.token_ids].__len__() == parts[-1].completion_tokens
    return "".join(delta.text for delta in parts), parts[-1]


async def test_a_conversation_is_answered_in_whole_text(kit: Any) -> None:
    async with chat_model(kit) as model:
        prompt = await model.reader.chat(ChatPrompt([{"role": "user", "content": "Hello world"}]))
        assert model._tokenizer.decode(prompt) == "<|im_start|>user\nHello world<|im_end|>\n<|im_start|>assistant\n"
        text, last = await text_of(model, prompt, GREEDY)
        assert text == model.decode(await kit.tokens(model.engine, prompt, max_tokens=40))
        assert (last.finish_reason, last.completion_tokens) == ("length", 40)


async def test_a_stop_string_ends_the_answer_before_it_and_frees_the_slot(kit: Any) -> None:
    async with chat_model(kit, max_concurrent_sequences=1) as model:
        prompt = await model.reader.text("Hello world")
        whole, _ = await text_of(model, prompt, GREEDY)
        middle = whole[len(whole) // 2 : len(whole) // 2 + 3]
        text, last = await text_of(model, prompt, GREEDY, stop=("\u2063never", middle))
        assert text == whole[: whole.index(middle)]
        assert last.finish_reason == "stop"
        assert last.completion_tokens <= 40
        await model.engine.drain()


async def test_an_answer_ends_when_it_is_enough_and_counts_what_was_computed(kit: Any) -> None:
    async with chat_model(kit, max_concurrent_sequences=1) as model:
        prompt = await model.reader.text("Hello world")
        whole, _ = await text_of(model, prompt, GREEDY)
        seen: list[str] = []

        class Half(PlainParser):
            """Takes half of the answer for a call."""

            def push(self, text: str) -> list[Part]:
                seen.append(text)
                self.complete = int(len("".join(seen)) >= len(whole) // 2)
                return super().push(text)

        reader = AnswerReader(Half(), one_call=True)
        async with aclosing(model.generate(GenerationRequest("test", prompt, GREEDY), reader=reader)) as deltas:
            parts = [delta async for delta in deltas]
        assert "".join(part.text for part in parts) == "".join(seen) == whole[: len("".join(seen))]
        assert [Content(delta.text) for delta in parts] == [part for delta in parts for part in delta.parts]
        assert parts[-1].finish_reason == "stop"
        assert parts[-1].completion_tokens == sum(len(part.token_ids) for part in parts) < 40
        await model.engine.drain()


async def test_the_end_of_sequence_token_counts_and_has_no_text(kit: Any) -> None:
    async with chat_model(kit) as model:
        prompt = await model.reader.text("Hello")
        forced = SamplingParams(temperature=0, max_tokens=5, logit_bias={2: 1000.0})
        text, last = await text_of(model, prompt, forced)
        assert (text, last.finish_reason, last.completion_tokens, last.token_ids) == ("", "stop", 1, (2,))


async def test_closing_early_cancels(kit: Any) -> None:
    async with chat_model(kit, max_concurrent_sequences=1) as model:
        async with aclosing(
            model.generate(GenerationRequest("test", [5, 6], SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)))
        ) as deltas:
            await anext(deltas)
        await model.engine.drain()
        assert model.engine.stats().generation_tokens_total < 200


async def test_log_probabilities_reach_the_deltas(kit: Any) -> None:
    async with chat_model(kit) as model:
        sampling = SamplingParams(temperature=0, max_tokens=3, ignore_eos=True, logprobs=2)
        async with aclosing(model.generate(GenerationRequest("test", [5, 6], sampling))) as deltas:
            events = [event async for delta in deltas for event in delta.events]
    assert len(events) == 3
    assert all(event.top_logprobs[0] == (event.token_id, event.logprob) for event in events)


async def test_tokens_come_with_the_text_that_they_begin(kit: Any) -> None:
    """Each token once, in order, with its place in the text, also those that are parts of characters and those held back for a stop."""
    async with chat_model(kit) as model:
        sampling = SamplingParams(temperature=1.5, seed=5, max_tokens=60, ignore_eos=True, logprobs=0)
        async with aclosing(model.generate(GenerationRequest("test", [5, 6], sampling), ["never this"])) as deltas:
            parts = [delta async for delta in deltas]
    text = "".join(delta.text for delta in parts)
    tokens = [token for delta in parts for token in delta.tokens]
    assert [token.event.token_id for token in tokens] == [event.token_id for delta in parts for event in delta.events]
    given = 0
    for delta in parts[:-1]:
        given += len(delta.text)
        assert all(token.offset < given for token in delta.tokens)
    spoken = [model.token_bytes.of(token.event.token_id) for token in tokens if token.event.token_id > 2]
    assert b"".join(spoken).decode(errors="replace") == text


async def test_what_a_stop_string_cuts_off_is_no_part_of_the_tokens(kit: Any) -> None:
    async with chat_model(kit) as model:
        whole, _ = await text_of(model, [5, 6], GREEDY)
        stop = whole[9:14]
        async with aclosing(model.generate(GenerationRequest("test", [5, 6], GREEDY), [stop])) as deltas:
            tokens = [token async for delta in deltas for token in delta.tokens]
    assert all(token.offset < whole.index(stop) for token in tokens)
    said = b"".join(model.token_bytes.of(token.event.token_id) for token in tokens if token.event.token_id > 2)
    assert said.decode(errors="replace").startswith(whole[: whole.index(stop)])


async def test_visible_tokens_are_spelled_in_the_text(kit: Any) -> None:
    async with chat_model(kit) as model:
        forced = SamplingParams(temperature=0, max_tokens=3, logit_bias={1: 1000.0}, ignore_eos=True)
        for visible, wanted in ((frozenset(), ""), (frozenset({1}), "<|im_start|>" * 3)):
            async with aclosing(model.generate(GenerationRequest("test", [5], forced), visible=visible)) as deltas:
                assert "".join([delta.text async for delta in deltas]) == wanted
