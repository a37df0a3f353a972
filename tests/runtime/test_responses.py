"""``/v1/responses`` with the unmodified `openai` client, its answers validated."""

import httpx
import openai
import pytest

ASK = {"model": "tiny-chat", "input": "Hello", "max_output_tokens": 8, "temperature": 0}


@pytest.fixture
def client(chat):
    return openai.OpenAI(base_url=f"{chat.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True)


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
    assert events[-1].response.usage == whole.usage
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
