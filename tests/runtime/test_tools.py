"""Tools and reasoning through HTTP: random weights that call as their schemas say."""

import json
from collections.abc import Callable
from typing import Any

import httpx
import jsonschema
import pytest
from modelyard_runtime.settings import ServeSettings

from .agents import CLOCK, HELLO, PERSON, WEATHER, schema_format
from .conftest import Running, running


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "get_weather"}}])
@pytest.mark.parametrize("server", ["agent", "chat"])
def test_forced_calls_keep_to_their_schema(server: str, choice: Any, request: pytest.FixtureRequest) -> None:
    served: Running = request.getfixturevalue(server)
    answer = served.openai().chat.completions.create(
        model=served.name, messages=HELLO, tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False, seed=1, max_tokens=300
    )
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls"
    assert answer.choices[0].message.content is None
    assert call.function.name == "get_weather"
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_no_arguments_are_made_up_that_a_tool_does_not_list(chat: Running) -> None:
    ids = [
        httpx.post(f"{chat.url}/tokenize", json={"model": chat.name, "prompt": mark, "add_special_tokens": False}).json() for mark in '"}'
    ]
    tool = {"type": "function", "function": {"name": "now", "parameters": {"type": "object", "properties": {}}}}
    answer = chat.openai().chat.completions.create(
        model=chat.name,
        messages=HELLO,
        tools=[tool],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
        temperature=0,
        logit_bias={str(found["tokens"][0]): bias for found, bias in zip(ids, (100, 90), strict=True)},  # it would rather begin a key
    )
    [call] = answer.choices[0].message.tool_calls
    assert json.loads(call.function.arguments) == {}


def test_forced_calls_in_a_stream(agent: Running) -> None:
    chunks = list(
        agent.openai().chat.completions.create(
            model="agent", messages=HELLO, tools=[WEATHER, CLOCK], tool_choice="required", seed=3, max_tokens=300, stream=True
        )
    )
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for delta in chunk.choices[0].delta.tool_calls or ():
            if delta.id:
                assert delta.index == len(calls)
                calls[delta.index] = [delta.function.name, ""]
            calls[delta.index][1] += delta.function.arguments or ""
    assert calls
    assert chunks[-1].choices[0].finish_reason in {"tool_calls", "length"}
    name, arguments = calls[0]
    jsonschema.validate(json.loads(arguments), WEATHER["function"]["parameters"] if name == "get_weather" else {"maxProperties": 0})


def test_a_round_trip_with_tools(agent: Running, chat: Running) -> None:
    for server in (agent, chat):
        client = server.openai()
        first = client.chat.completions.create(
            model=server.name, messages=HELLO, tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, seed=1, max_tokens=300
        )
        message = first.choices[0].message
        history = [
            *HELLO,
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": [{"type": "text", "text": "sunny"}]},
        ]
        second = client.chat.completions.create(model=server.name, messages=history, tools=[WEATHER], max_tokens=4)
        assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_thinking_is_apart_from_the_answer(agent: Running) -> None:
    ids = httpx.post(f"{agent.url}/tokenize", json={"model": "agent", "prompt": "</think>", "add_special_tokens": False}).json()["tokens"]
    answer = agent.openai().chat.completions.create(
        model="agent",
        messages=HELLO,
        response_format=schema_format(PERSON),
        reasoning_effort="high",
        seed=1,
        max_tokens=300,
        logit_bias={str(ids[0]): 8.0},
    )
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(message.content), PERSON)
    assert message.reasoning_content
    assert 0 < answer.usage.completion_tokens_details.reasoning_tokens < answer.usage.completion_tokens


def test_thinking_may_be_left_out(agent: Running) -> None:
    answer = agent.openai().chat.completions.create(
        model="agent", messages=HELLO, response_format=schema_format(PERSON), reasoning_effort="none", seed=1, max_tokens=300
    )
    assert not hasattr(answer.choices[0].message, "reasoning_content")
    jsonschema.validate(json.loads(answer.choices[0].message.content), PERSON)


def test_strict_tools_beside_text(agent: Running) -> None:
    strict = {"type": "function", "function": {**WEATHER["function"], "strict": True}}
    ids = httpx.post(f"{agent.url}/tokenize", json={"model": "agent", "prompt": "<tool_call>", "add_special_tokens": False}).json()[
        "tokens"
    ]
    answer = agent.openai().chat.completions.create(
        model="agent",
        messages=HELLO,
        tools=[strict],
        reasoning_effort="none",
        seed=1,
        max_tokens=120,
        logit_bias={str(ids[0]): 14.0},
        parallel_tool_calls=False,
    )
    [call] = answer.choices[0].message.tool_calls
    assert answer.choices[0].finish_reason == "tool_calls", "it ends with the call, not with the 120 tokens"
    assert answer.usage.completion_tokens < 120
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_a_stream_ends_with_its_only_call(agent: Running) -> None:
    ask = {
        "model": "agent",
        "messages": HELLO,
        "tools": [WEATHER],
        "tool_choice": "required",
        "reasoning_effort": "none",
        "parallel_tool_calls": False,
        "max_tokens": 200,
    }
    whole = agent.openai().chat.completions.create(**ask, seed=1)
    *_, last, counted = agent.openai().chat.completions.create(**ask, seed=1, stream=True, stream_options={"include_usage": True})
    assert last.choices[0].finish_reason == "tool_calls"
    assert counted.usage.completion_tokens == whole.usage.completion_tokens < 200


@pytest.mark.parametrize("style", ["qwen3_coder", "glm", "deepseek", "pythonic"])
def test_calls_in_each_writing(settings: Callable[..., ServeSettings], style: str) -> None:
    with running(settings("builtin://tiny-chat", tool_parser=style)) as server:
        client = server.openai()
        ask = {"model": server.name, "messages": HELLO, "tools": [WEATHER, CLOCK], "tool_choice": "required", "seed": 2, "max_tokens": 400}
        first = client.chat.completions.create(**ask, parallel_tool_calls=False)
        [call] = first.choices[0].message.tool_calls
        assert first.choices[0].finish_reason == "tool_calls"
        assert first.choices[0].message.content is None
        jsonschema.validate(json.loads(call.function.arguments), schema_of(call.function.name))
        chunks = list(client.chat.completions.create(**ask, parallel_tool_calls=False, stream=True))
        deltas = [delta for chunk in chunks for delta in chunk.choices[0].delta.tool_calls or ()]
        assert "".join(delta.function.arguments or "" for delta in deltas) == call.function.arguments
        history = [
            *HELLO,
            first.choices[0].message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": call.id, "content": "3"},
        ]
        assert client.chat.completions.create(model=server.name, messages=history, tools=[WEATHER, CLOCK], max_tokens=2).choices


@pytest.mark.parametrize("style", ["hermes", "llama3", "mistral", "harmony", "json"])
def test_whatever_a_model_writes_is_streamed_as_it_is_answered_whole(settings: Callable[..., ServeSettings], style: str) -> None:
    """Random text, with calls that are begun and never end, that are cut, that are forced, and none; with log probabilities and choices."""
    with running(settings("builtin://tiny-chat", tool_parser=style)) as server:
        client = server.openai()
        for seed in range(12):
            ask: dict[str, Any] = {
                "model": server.name,
                "messages": HELLO,
                "tools": [WEATHER, CLOCK],
                "seed": seed,
                "logprobs": True,
                "n": 2,
            }
            ask |= {
                "max_tokens": (6, 40, 120)[seed % 3],
                "temperature": (0, 1.4)[seed % 2],
                "tool_choice": ("auto", "required")[seed % 4 > 1],
            }
            whole = client.chat.completions.create(**ask)
            assert gathered(client.chat.completions.create(**ask, stream=True)) == [
                (
                    choice.message.content or "",
                    [(call.function.name, call.function.arguments) for call in choice.message.tool_calls or ()],
                    [entry.token for entry in choice.logprobs.content],
                    choice.finish_reason,
                )
                for choice in whole.choices
            ]


def gathered(chunks: Any) -> list[tuple[str, list[tuple[str, str]], list[str], str]]:
    """Returns content, calls, tokens and reason of the end of each of a stream's two choices."""
    content, calls, tokens, ends = ["", ""], [dict[int, list[str]](), {}], [list[str](), []], ["", ""]
    for chunk in chunks:
        for choice in chunk.choices:
            at = choice.index
            content[at] += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                assert part.index in {len(calls[at]) - 1, len(calls[at])}, "calls come one after the other"
                call = calls[at].setdefault(part.index, [part.function.name, ""])
                call[1] += part.function.arguments or ""
            tokens[at] += [entry.token for entry in choice.logprobs.content] if choice.logprobs else []
            ends[at] = choice.finish_reason or ends[at]
    return [(content[at], [(name, text) for name, text in calls[at].values()], tokens[at], ends[at]) for at in range(2)]


def schema_of(name: str) -> dict[str, Any]:
    return WEATHER["function"]["parameters"] if name == "get_weather" else {"type": "object", "maxProperties": 0}


def test_conditions_across_arguments_that_are_written_one_by_one_are_refused(settings: Callable[..., ServeSettings]) -> None:
    parameters = {"type": "object", "properties": {"a": {}, "b": {}}, "dependentRequired": {"a": ["b"]}}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    with running(settings("builtin://tiny-chat", tool_parser="pythonic")) as server:
        body = {"model": server.name, "messages": HELLO, "tools": [tool], "tool_choice": "required"}
        reply = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == "tools"
    assert "one by one" in reply.json()["error"]["message"]
