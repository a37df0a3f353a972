"""The unmodified `openai` client against real servers."""

import base64
import math
import struct

import httpx
import openai
import pytest
from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.api.completions import CompletionBody
from modelyard_runtime.api.embeddings import EmbeddingBody
from modelyard_runtime.api.openresponses.body import ResponsesBody
from openai.types import EmbeddingCreateParams, completion_create_params
from openai.types.chat import completion_create_params as chat_params
from openai.types.responses import FunctionTool, ResponseFunctionToolCall, response_create_params

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]


def test_models_are_listed(chat):
    [model] = chat.openai().models.list().data
    assert model.id == "tiny-chat"
    assert model.capabilities == ["chat", "completions"]
    assert chat.openai().models.retrieve("tiny-chat").id == "tiny-chat"
    with pytest.raises(openai.NotFoundError):
        chat.openai().models.retrieve("other")


def test_chat(chat):
    answer = chat.openai().chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=8, temperature=0)
    [choice] = answer.choices
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 8
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8
    assert answer.object == "chat.completion"
    assert answer.model == "tiny-chat"


def test_streamed_chat_is_the_same_text(chat):
    client = chat.openai()
    whole = client.chat.completions.create(model="tiny-chat", messages=MESSAGES, max_completion_tokens=12, temperature=0)
    chunks = list(
        client.chat.completions.create(model="tiny-chat", messages=MESSAGES, max_completion_tokens=12, temperature=0, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert len({chunk.id for chunk in chunks}) == 1


def test_usage_ends_a_stream_that_asks_for_it(chat):
    options = {"include_usage": True}
    chunks = list(
        chat.openai().chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=3, stream=True, stream_options=options)
    )
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_a_seed_repeats_a_sample(chat):
    def ask(seed: int) -> str:
        answer = chat.openai().chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=16, seed=seed, top_p=0.95)
        return answer.choices[0].message.content

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(4)}) > 1


def test_stop_strings_end_the_answer_and_are_not_in_it(chat):
    client = chat.openai()
    whole = client.chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=16, temperature=0).choices[0].message.content
    stop = whole[6:9]
    answer = client.chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=16, temperature=0, stop=[stop, "never"])
    assert answer.choices[0].message.content == whole[: whole.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


def test_an_answer_may_be_sent_back_as_the_client_has_it(chat):
    client = chat.openai()
    first = client.chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=4)
    history = [
        *MESSAGES,
        first.choices[0].message,
        {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "text", "text": " now?"}]},
    ]
    assert client.chat.completions.create(model="tiny-chat", messages=history, max_tokens=4).usage.prompt_tokens > first.usage.prompt_tokens


def test_what_clients_send_for_themselves_is_accepted(chat):
    answer = chat.openai().chat.completions.create(
        model="tiny-chat", messages=MESSAGES, max_tokens=2, user="me", metadata={"a": "b"}, store=False, service_tier="auto", n=1,
        tools=[], response_format={"type": "text"}, logprobs=False, presence_penalty=0.5, frequency_penalty=0.5, safety_identifier="x",
    )  # fmt: skip
    assert answer.choices[0].finish_reason in {"length", "stop"}


def test_what_came_with_answers_is_taken_back(chat):
    """A refusal, reasoning without a text, a call with all of its fields, and what others are to cache."""
    parts = [{"type": "text", "text": "Hello", "prompt_cache_breakpoint": {"mode": "explicit"}, "cache_control": {"type": "ephemeral"}}]
    said = [
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]},
        {"role": "assistant", "content": None, "reasoning_content": "Hm."},
    ]
    turns = [{"role": "user", "content": parts}, *said, {"role": "user", "content": "Go on"}]
    assert chat.openai().chat.completions.create(model="tiny-chat", messages=turns, max_tokens=2).choices
    call = ResponseFunctionToolCall(type="function_call", call_id="a", name="f", arguments="{}").model_dump(by_alias=True)
    answered = {"type": "function_call_output", "call_id": "a", "output": "1"}
    tool = FunctionTool(type="function", name="f", parameters={"type": "object"}, strict=None).model_dump(by_alias=True)
    assert {"async", "namespace"} < call.keys()
    assert (
        chat.openai()
        .responses.create(
            model="tiny-chat", input=[{"role": "user", "content": "Hello"}, call, answered], tools=[tool], max_output_tokens=2
        )
        .output
    )


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        (chat_params.CompletionCreateParamsBase, ChatBody),
        (completion_create_params.CompletionCreateParamsBase, CompletionBody),
        (response_create_params.ResponseCreateParamsBase, ResponsesBody),
        (EmbeddingCreateParams, EmbeddingBody),
    ],
)
def test_each_field_of_openais_is_known(theirs, ours):
    assert set(theirs.__annotations__) <= set(ours.model_fields)


def test_the_gateway_s_header_names_the_model_and_the_answer_keeps_the_client_s_word(chat):
    client = chat.openai()
    headers = {"x-modelyard-model": "tiny-chat"}
    answer = client.chat.completions.create(model="gpt-4o-mini", messages=MESSAGES, max_tokens=2, extra_headers=headers)
    assert answer.model == "gpt-4o-mini"


def test_completions_of_a_text_and_of_its_tokens_agree(chat):
    client = chat.openai()
    by_text = client.completions.create(model="tiny-chat", prompt=["Hello the world", "of and"], max_tokens=6, temperature=0)
    assert [choice.index for choice in by_text.choices] == [0, 1]
    assert by_text.usage.completion_tokens == 12
    one = client.completions.create(model="tiny-chat", prompt="Hello the world", max_tokens=6, temperature=0)
    assert one.choices[0].text == by_text.choices[0].text
    tokens = client.completions.create(model="tiny-chat", prompt=[[70, 80, 90], [70, 80, 90]], max_tokens=6, temperature=0)
    assert tokens.choices[0].text == tokens.choices[1].text
    assert (
        client.completions.create(model="tiny-chat", prompt=[70, 80, 90], max_tokens=6, temperature=0).choices[0].text
        == tokens.choices[0].text
    )


def test_completions_default_to_16_tokens_as_openai_does(chat):
    assert chat.openai().completions.create(model="tiny-chat", prompt="Hello", temperature=0).usage.completion_tokens == 16


def test_streamed_completions_of_several_prompts(chat):
    client = chat.openai()
    whole = client.completions.create(model="tiny-chat", prompt=["Hello", "of and"], max_tokens=6, temperature=0)
    texts = {0: "", 1: ""}
    options = {"include_usage": True}
    chunks = list(
        client.completions.create(
            model="tiny-chat", prompt=["Hello", "of and"], max_tokens=6, temperature=0, stream=True, stream_options=options
        )
    )
    for chunk in chunks[:-1]:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert [texts[0], texts[1]] == [choice.text for choice in whole.choices]
    assert chunks[-1].usage.completion_tokens == 12


def test_embeddings_as_numbers_and_as_base64(embed):
    client = embed.openai()
    numbers = client.embeddings.create(model="tiny-embed", input=["Hello", "the world of words"], encoding_format="float")
    packed = client.embeddings.create(model="tiny-embed", input=["Hello", "the world of words"])  # the client asks for base64 by itself
    assert len(numbers.data) == 2
    for left, right in zip(numbers.data, packed.data, strict=True):
        assert left.embedding == pytest.approx(right.embedding, abs=1e-6)
        assert math.hypot(*left.embedding) == pytest.approx(1, abs=1e-5)
    assert numbers.usage.prompt_tokens == numbers.usage.total_tokens > 4


def test_base64_is_little_endian_float32(embed):
    body = {"model": "tiny-embed", "input": "Hello", "encoding_format": "base64"}
    raw = base64.b64decode(httpx.post(f"{embed.url}/v1/embeddings", json=body).json()["data"][0]["embedding"])
    assert math.hypot(*struct.unpack("<64f", raw)) == pytest.approx(1, abs=1e-5)


def test_fewer_dimensions_are_the_first_ones_at_length_1(embed):
    client = embed.openai()
    full = client.embeddings.create(model="tiny-embed", input="Hello").data[0].embedding
    cut = client.embeddings.create(model="tiny-embed", input="Hello", dimensions=8).data[0].embedding
    length = math.hypot(*full[:8])
    assert cut == pytest.approx([value / length for value in full[:8]], abs=1e-6)


def test_embeddings_of_tokens_are_those_of_their_text(embed):
    client = embed.openai()
    by_text = client.embeddings.create(model="tiny-embed", input="abc").data[0].embedding
    by_ids = client.embeddings.create(model="tiny-embed", input=[67, 68, 69]).data[0].embedding
    complete = client.embeddings.create(model="tiny-embed", input=[[1, 67, 68, 69, 2]]).data[0].embedding
    assert by_ids == pytest.approx(by_text, abs=1e-6)
    assert complete == pytest.approx(by_text, abs=1e-6)


def test_tokens_and_requests_are_counted(chat):
    before = {name: chat.metric(name) for name in ("generation_tokens_total", "prompt_tokens_total", "time_to_first_token_seconds_count")}
    finished = chat.metric("request_success_total", finished_reason="length")
    usage = chat.openai().chat.completions.create(model="tiny-chat", messages=MESSAGES, max_tokens=5, temperature=0).usage
    assert chat.metric("generation_tokens_total") == before["generation_tokens_total"] + 5
    assert chat.metric("prompt_tokens_total") == before["prompt_tokens_total"] + usage.prompt_tokens
    assert chat.metric("time_to_first_token_seconds_count") == before["time_to_first_token_seconds_count"] + 1
    assert chat.metric("request_success_total", finished_reason="length") == finished + 1
    assert chat.metric("num_requests_running") == 0


def test_progress_tells_the_seconds_of_each_phase(chat):
    progress = chat.progress()
    assert progress["phase"] == "ready"
    assert progress["capabilities"] == ["chat", "completions"]
    assert {"resolve", "load", "warmup"} <= set(progress["seconds"])


def test_a_request_id_is_kept_or_made(chat):
    given = httpx.get(f"{chat.url}/v1/models", headers={"x-request-id": "abc-1"})
    assert given.headers["x-request-id"] == "abc-1"
    odd = httpx.get(f"{chat.url}/v1/models", headers={"x-request-id": "a b" * 100})
    assert odd.headers["x-request-id"].startswith("req-")
