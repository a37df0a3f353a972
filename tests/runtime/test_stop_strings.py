"""Stop strings: where they end an answer, and where they are no more than text."""

import json
from typing import Any

import httpx
import jsonschema
import pytest

from .agents import HELLO, PERSON, WEATHER, schema_format
from .conftest import Running

ASK: dict[str, Any] = {"model": "tiny-chat", "messages": HELLO, "max_tokens": 12}
SAMPLED = {"temperature": 1.3, "seed": 7}
CALL: dict[str, Any] = {"messages": HELLO, "tools": [WEATHER], "parallel_tool_calls": False, "max_tokens": 300, "seed": 1}
NAMED = {"type": "function", "function": {"name": "get_weather"}}


@pytest.fixture
def client(chat):
    return chat.openai(strict=True)


def text_of(answer):
    return answer.choices[0].message.content


def joined(chunks):
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def test_what_a_stop_string_cuts_off_has_no_log_probability(client):
    whole = text_of(client.chat.completions.create(**ASK, temperature=0))
    answer = client.chat.completions.create(**ASK, temperature=0, stop=whole[5:8], logprobs=True)
    assert text_of(answer) == whole[: whole.index(whole[5:8])]
    assert "".join(entry.token for entry in answer.choices[0].logprobs.content[:-1]) in text_of(answer)


def test_sixteen_stop_strings_hold_in_a_stream_across_its_chunks(client):
    """The first one in the text wins, wherever chunks begin and end, and nothing of it is streamed."""
    asked = {**ASK, **SAMPLED, "max_tokens": 40}
    whole = text_of(client.chat.completions.create(**asked))
    for at in (3, 9, 17):
        stops = [*(f"never said {number}" for number in range(15)), whole[at : at + 7]]
        said = whole[: min(whole.find(stop) for stop in stops if stop in whole)]
        chunks = list(client.chat.completions.create(**asked, stop=stops, stream=True))
        assert joined(chunks) == text_of(client.chat.completions.create(**asked, stop=stops)) == said
        assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("served", ["agent", "chat"])
def test_forced_calls_are_whole_whatever_they_spell(served, choice, request):
    server: Running = request.getfixturevalue(served)
    asked = {"model": server.name, **CALL, "tool_choice": choice}
    stops = ["Paris", "Rome", '"', "}", "get_weather", "\n"]
    answer = server.openai(strict=True).chat.completions.create(**asked, stop=stops)
    [call] = answer.choices[0].message.tool_calls
    assert (answer.choices[0].finish_reason, text_of(answer)) == ("tool_calls", None)
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])
    streamed = [
        part.function.arguments or ""
        for chunk in server.openai(strict=True).chat.completions.create(**asked, stop=stops, stream=True)
        for part in chunk.choices[0].delta.tool_calls or ()
    ]
    assert "".join(streamed) == call.function.arguments


def test_responses_call_as_a_whole_too(agent):
    tool = {"type": "function", **WEATHER["function"]}
    asked = {"model": "agent", "input": "Hello", "tools": [tool], "tool_choice": "required", "parallel_tool_calls": False}
    answer = agent.openai().responses.create(**asked, max_output_tokens=300, extra_body={"stop": ["Paris", "Rome"], "seed": 1})
    [call] = [item for item in answer.output if item.type == "function_call"]
    assert (answer.status, call.status) == ("completed", "completed")
    jsonschema.validate(json.loads(call.arguments), WEATHER["function"]["parameters"])


def test_json_is_content_and_ends_at_a_stop_string(client):
    asked = {**ASK, "response_format": schema_format(PERSON), "max_tokens": 200, "seed": 1}
    whole = text_of(client.chat.completions.create(**asked))
    answer = client.chat.completions.create(**asked, stop=['"age"'])
    assert (text_of(answer), answer.choices[0].finish_reason) == (whole.partition('"age"')[0], "stop")
    assert joined(client.chat.completions.create(**asked, stop=['"age"'], stream=True)) == text_of(answer)


def test_thinking_is_not_ended_by_what_ends_the_answer(agent):
    ids = httpx.post(f"{agent.url}/tokenize", json={"model": "agent", "prompt": "</think>", "add_special_tokens": False}).json()["tokens"]
    asked = {
        **{"model": "agent", "messages": HELLO, "response_format": schema_format(PERSON), "reasoning_effort": "high"},
        **{"seed": 1, "max_tokens": 300, "logit_bias": {str(ids[0]): 8.0}},
    }
    whole = agent.openai().chat.completions.create(**asked).choices[0].message
    thought = whole.reasoning_content
    stop = next(thought[at : at + 3] for at in range(len(thought)) if thought[at : at + 3] not in whole.content)
    again = agent.openai().chat.completions.create(**asked, stop=[stop])
    assert (again.choices[0].message.reasoning_content, text_of(again)) == (thought, whole.content)
    cut = agent.openai().chat.completions.create(**asked, stop=[stop, '"age"'])
    assert (cut.choices[0].message.reasoning_content, text_of(cut)) == (thought, whole.content.partition('"age"')[0])
