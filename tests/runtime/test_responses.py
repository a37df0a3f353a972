"""``/v1/responses`` with the unmodified `openai` client, its answers validated."""

import json
from typing import Literal

import httpx
import openai
import pytest
from modelyard_runtime.api.conversation import Conversation, Step
from modelyard_runtime.api.openresponses.answer import ResponseAnswer
from modelyard_runtime.api.openresponses.body import ResponsesBody
from modelyard_runtime.api.openresponses.events import Output
from modelyard_runtime.api.openresponses.items import Item, messages_of
from modelyard_runtime.engine.base import EngineFailed
from modelyard_runtime.models.answer import Content, Reasoning, ToolCallArguments, ToolCallStart
from modelyard_runtime.models.text import TextDelta
from modelyard_runtime.models.tokens import TokenBytes
from modelyard_runtime.serving.sampling import SamplingDefaults
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

ASK = {"model": "tiny-chat", "input": "Hello", "max_output_tokens": 8, "temperature": 0}


@pytest.fixture
def client(chat):
    with openai.OpenAI(base_url=f"{chat.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True) as client:
        yield client


def test_a_response_is_what_chat_says(client):
    response = client.responses.create(**ASK)
    chat = client.chat.completions.create(model="tiny-chat", messages=[{"role": "user", "content": "Hello"}], max_tokens=8, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert response.status == "incomplete"
    assert response.incomplete_details.reason == "max_output_tokens"
    [message] = response.output
    assert (message.type, message.role, message.status) == ("message", "assistant", "incomplete")
    assert response.usage.input_tokens == chat.usage.prompt_tokens
    assert response.usage.output_tokens == 8
    assert response.usage.total_tokens == response.usage.input_tokens + 8


def test_instructions_are_the_system_s_message_and_items_are_messages(client):
    response = client.responses.create(
        **{**ASK, "input": [{"role": "user", "content": [{"type": "input_text", "text": "Hel"}, {"type": "input_text", "text": "lo"}]}]},
        instructions="Be brief.",
        metadata={"a": "b"},
        store=True,
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(model="tiny-chat", messages=messages, max_tokens=8, temperature=0)
    assert response.output_text == chat.choices[0].message.content
    assert (response.instructions, response.metadata) == ("Be brief.", {"a": "b"})
    assert response.store is False  # accepted, and said not to be


def test_an_answer_may_be_sent_back_as_the_client_has_it(client):
    first = client.responses.create(**ASK)
    more = client.responses.create(
        **{**ASK, "input": [{"role": "user", "content": "Hello"}, *first.output, {"role": "user", "content": "And now?"}]}
    )
    assert more.usage.input_tokens > first.usage.input_tokens + 8


def test_a_stream_has_all_events_in_order(client):
    whole = client.responses.create(**ASK)
    events = list(client.responses.create(**ASK, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    types = [event.type for event in events]
    assert types[:4] == ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    assert types[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == whole.output_text == events[-4].text
    assert events[-1].response.output_text == whole.output_text
    counts = {"input_tokens", "output_tokens", "total_tokens"}  # what of the prompt is cached depends on who asked before
    assert events[-1].response.usage.model_dump(include=counts) == whole.usage.model_dump(include=counts)
    assert len({event.item_id for event in events if hasattr(event, "item_id")}) == 1


def test_the_client_s_own_helper_follows_the_stream(client):
    with client.responses.stream(**{**ASK, "max_output_tokens": 400}, extra_body={"logit_bias": {"2": 20}}) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text
    assert final.status == "completed"


def test_log_probabilities_are_included_on_demand(client):
    plain = client.responses.create(**ASK)
    assert plain.output[0].content[0].logprobs == []
    asked = client.responses.create(**ASK, include=["message.output_text.logprobs"], top_logprobs=2)
    entries = asked.output[0].content[0].logprobs
    assert len(entries) == 8
    assert all(len(entry.top_logprobs) == 2 and entry.top_logprobs[0].token == entry.token for entry in entries)
    events = list(client.responses.create(**ASK, include=["message.output_text.logprobs"], top_logprobs=2, stream=True))
    streamed = [entry.token for event in events if event.type == "response.output_text.delta" for entry in event.logprobs]
    assert streamed == [entry.token for entry in entries]


def test_an_answer_of_nothing_is_an_empty_message(client):
    response = client.responses.create(**ASK, extra_body={"logit_bias": {"2": 100}})
    assert response.status == "completed"
    assert response.output_text == ""
    assert response.output[0].type == "message"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_nothing_is_stored(chat, method):
    response = httpx.request(method, f"{chat.url}/v1/responses/resp_1")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "response_not_found"
    assert "stores none" in response.json()["error"]["message"]


WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Says how the weather is.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Rome", "Oslo"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
CALL = {**ASK, "max_output_tokens": 200, "tools": [WEATHER], "tool_choice": "required", "parallel_tool_calls": False}


def test_a_function_is_called_and_its_answer_heard(client):
    response = client.responses.create(**CALL)
    [call] = [item for item in response.output if item.type == "function_call"]
    assert call.name == "get_weather"
    assert json.loads(call.arguments)["city"] in {"Rome", "Oslo"}
    assert response.status == "completed"
    assert response.tools[0].name == "get_weather"
    heard = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"}
    more = client.responses.create(**{**ASK, "input": [{"role": "user", "content": "Hello"}, *response.output, heard], "tools": [WEATHER]})
    assert more.usage.input_tokens > response.usage.input_tokens


def test_a_call_is_streamed(client):
    whole = client.responses.create(**CALL)
    events = list(client.responses.create(**CALL, stream=True))
    types = [event.type for event in events]
    assert types[2] == "response.output_item.added"
    assert types[-3:] == ["response.function_call_arguments.done", "response.output_item.done", "response.completed"]
    arguments = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
    assert arguments == events[-3].arguments == whole.output[-1].arguments
    assert events[-1].response.output[-1].name == "get_weather"


def test_one_function_may_be_named(client):
    response = client.responses.create(**{**CALL, "tool_choice": {"type": "function", "name": "get_weather"}})
    assert response.output[-1].name == "get_weather"


class Place(BaseModel):
    city: Literal["Rome", "Oslo"]
    people: Literal[1, 2, 3]


def test_an_answer_has_the_form_that_is_asked_for(client):
    parsed = client.responses.parse(model="tiny-chat", input="Hello", text_format=Place, max_output_tokens=200, temperature=1)
    assert isinstance(parsed.output_parsed, Place)
    form = {"type": "json_schema", "name": "place", "schema": Place.model_json_schema(), "strict": True}
    answer = client.responses.create(**{**ASK, "max_output_tokens": 200}, text={"format": form})
    assert Place.model_validate_json(answer.output_text)
    assert json.loads(json.dumps(answer.to_dict()["text"]["format"]["schema"])) == form["schema"]


def test_parts_of_all_kinds_are_items_in_order():
    """Reasoning, text and two calls, as a model that says it all gives them out; every event is one that the client knows."""
    output, known = Output(logprobs=False), TypeAdapter(ResponseStreamEvent)
    parts = [
        [Reasoning("Let me "), Reasoning("think.")],
        [Content("I ask.")],
        [ToolCallStart(0, "call_a", "f"), ToolCallArguments(0, "{"), ToolCallArguments(0, "}")],
        [ToolCallStart(1, "call_b", "g")],
    ]
    events = [event for step in parts for event in output.add(Step(0, step, TextDelta("", (), 0)), TokenBytes)]
    events += output.end("completed")
    for number, event in enumerate(events):
        known.validate_python({**event, "sequence_number": number})
    assert [item["type"] for item in output.done] == ["reasoning", "message", "function_call", "function_call"]
    assert output.done[0]["content"] == [{"type": "reasoning_text", "text": "Let me think."}]
    assert [item["arguments"] for item in output.done[2:]] == ["{}", ""]
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1, 2, 3]
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == output.done


def test_items_are_the_messages_of_their_turns():
    items = TypeAdapter(list[Item]).validate_python(
        [
            {"role": "user", "content": "Weather?"},
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "I ask."}]},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "A moment.", "annotations": []}],
            },
            {"type": "function_call", "call_id": "a", "name": "f", "arguments": "{}"},
            {"type": "function_call", "call_id": "b", "name": "g", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": "1"},
            {"type": "function_call_output", "call_id": "b", "output": [{"type": "input_text", "text": "2"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "See "}, {"type": "input_image", "image_url": "data:x"}]},
        ]
    )
    places, messages = zip(*messages_of(items), strict=True)
    assert places == (0, 2, 5, 6, 7)
    assert [message["role"] for message in messages] == ["user", "assistant", "tool", "tool", "user"]
    assert messages[1]["reasoning_content"] == "I ask."
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["a", "b"]
    assert messages[3]["content"] == "2"
    assert [part["type"] for part in messages[4]["content"]] == ["text", "image_url"]


async def test_what_breaks_on_the_way_is_told_as_an_event():
    async def steps():
        yield Step(0, [Content("Hel")], TextDelta("Hel", (), 1))
        raise EngineFailed("a secret of the inside")

    body = ResponsesBody.model_validate({**ASK, "stream": True})
    answer = ResponseAnswer(body, Conversation(5, 1, steps()), TokenBytes, SamplingDefaults())
    events = [json.loads(event.split(b"data: ")[1]) async for event in answer.stream()]
    for event in events:
        TypeAdapter(ResponseStreamEvent).validate_python(event)
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["error"]["code"] == "server_error"
    assert "Send the request again" in events[-1]["response"]["error"]["message"]
    assert "secret" not in str(events)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
