"""Structured output, tools and reasoning through HTTP: random weights that keep to a grammar, and the clients that read it."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import jsonschema
import numpy as np
import openai
import pytest
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources.tiny import make_chat
from pydantic import BaseModel, Field
from safetensors.numpy import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoTokenizer

from tests.runtime.conftest import Running, running

HELLO = [{"role": "user", "content": "Hello"}]
#: Makes random weights come to an end: ``"``, ``]`` and ``}`` are likelier than all that may go on.
ENDING = {"4": 12.0, "63": 12.0, "95": 12.0}
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock"}}

# Qwen3's way, in short: tools in the system message, calls in tags, results in a user's turn, thinking on demand.
TEMPLATE = """{%- if tools %}<|im_start|>system
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}Answer calls as <tool_call>{"name": ..., "arguments": ...}</tool_call><|im_end|>
{% endif %}{% for message in messages %}<|im_start|>{{ message.role }}
{% if message.reasoning_content %}<think>{{ message.reasoning_content }}</think>{% endif %}{{ message.content }}
{%- for call in message.tool_calls or [] %}<tool_call>{{ call.function.name }} {{ call.function.arguments | tojson }}</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% if enable_thinking is defined and enable_thinking %}<think>
{% elif enable_thinking is defined %}<think>

</think>

{% endif %}{% endif %}"""


def make_agent(folder: Path) -> None:
    """Writes the tiny chat model with a template that knows tools and thinking, and tokens for their markers."""
    make_chat(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    tokenizer.chat_template = TEMPLATE
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in ("<tool_call>", "</tool_call>")])
    tokenizer.add_tokens([AddedToken(name, special=True, normalized=False) for name in ("<think>", "</think>")], special_tokens=True)
    tokenizer.save_pretrained(folder)
    config["vocab_size"] = len(tokenizer)
    (folder / "config.json").write_text(json.dumps(config))
    _grow(folder / "model.safetensors", len(tokenizer))


def _grow(path: Path, size: int) -> None:
    """Adds rows for new tokens to the embeddings and the head."""
    weights = load_file(path)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        rows = np.zeros((size - len(weights[name]), weights[name].shape[1]), dtype=np.float32)
        weights[name] = np.concatenate([weights[name], rows])
    save_file(weights, path, metadata={"format": "pt"})


@pytest.fixture(scope="module")
def agent(settings: Callable[..., ServeSettings], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("weights") / "agent"
    folder.mkdir()
    make_agent(folder)
    with running(settings(f"file://{folder}")) as server:
        yield server


def schema_format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 150}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def test_random_weights_keep_to_a_schema(chat: Running) -> None:
    for seed in range(5):
        answer = chat.openai().chat.completions.create(
            model="tiny-chat", messages=HELLO, response_format=schema_format(PERSON), seed=seed, max_tokens=200
        )
        assert answer.choices[0].finish_reason == "stop"
        jsonschema.validate(json.loads(answer.choices[0].message.content), PERSON)


def test_n_answers_each_keep_to_the_schema_and_so_does_a_stream(chat: Running) -> None:
    ask = {"model": "tiny-chat", "messages": HELLO, "response_format": schema_format(PERSON), "n": 3, "seed": 1, "max_tokens": 200}
    whole = chat.openai().chat.completions.create(**ask)
    texts = ["", "", ""]
    for chunk in chat.openai().chat.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == [choice.message.content for choice in whole.choices]
    for text in texts:
        jsonschema.validate(json.loads(text), PERSON)


def test_json_object(chat: Running) -> None:
    answer = chat.openai().chat.completions.create(
        model="tiny-chat", messages=HELLO, response_format={"type": "json_object"}, seed=1, logit_bias=ENDING, max_tokens=400
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(json.loads(answer.choices[0].message.content), dict)


def test_greedy_answers_and_logprobs_go_with_a_schema(chat: Running) -> None:
    answer = chat.openai().chat.completions.create(
        model="tiny-chat", messages=HELLO, response_format=schema_format(PERSON), temperature=0, logprobs=True, max_tokens=200
    )
    [choice] = answer.choices
    assert "".join(entry.token for entry in choice.logprobs.content) == choice.message.content


def test_an_answer_that_is_cut_says_so(chat: Running) -> None:
    answer = chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, response_format=schema_format(PERSON), max_tokens=3)
    assert answer.choices[0].finish_reason == "length"


SCHEMAS = [json.loads(line) for line in (Path(__file__).parent.parent / "data" / "json_schemas.jsonl").read_text().splitlines()]


async def test_answers_to_schemas_of_all_kinds_are_valid(chat: Running) -> None:
    client = openai.AsyncOpenAI(base_url=f"{chat.url}/v1", api_key="none", max_retries=0)
    judge = jsonschema.Draft202012Validator

    async def ask(schema: dict[str, Any]) -> bool:
        answer = await client.chat.completions.create(
            model="tiny-chat", messages=HELLO, response_format=schema_format(schema), seed=3, logit_bias=ENDING, max_tokens=500
        )
        [choice] = answer.choices
        if choice.finish_reason == "stop":
            judge(schema, format_checker=judge.FORMAT_CHECKER).validate(json.loads(choice.message.content))
        return choice.finish_reason == "stop"

    # benchmarks/json_schema.py takes all of them; these are of every kind.
    finished = await asyncio.gather(*(ask(row["schema"]) for row in SCHEMAS[::9]))
    await client.close()
    assert sum(finished) >= 0.9 * len(finished)


class Step(BaseModel):
    explanation: Literal["add", "carry"]
    output: Annotated[int, Field(ge=0, le=999)]  # bounded: random weights may never end a number


class Solution(BaseModel):
    steps: list[Step]
    final: Literal["yes", "no"] | None


def test_the_clients_parse_helper(chat: Running) -> None:
    answer = chat.openai().chat.completions.parse(
        model="tiny-chat", messages=HELLO, response_format=Solution, seed=2, logit_bias=ENDING, max_tokens=600
    )
    assert answer.choices[0].finish_reason == "stop"
    assert isinstance(answer.choices[0].message.parsed, Solution)


def test_the_clients_streaming_helper(chat: Running) -> None:
    with chat.openai().chat.completions.stream(
        model="tiny-chat", messages=HELLO, response_format=Solution, seed=2, logit_bias=ENDING, max_tokens=600
    ) as stream:
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Solution)


def test_a_schema_in_responses(chat: Running) -> None:
    answer = chat.openai().responses.parse(model="tiny-chat", input="Hello", text_format=Step, max_output_tokens=100)
    assert isinstance(answer.output_parsed, Step)


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
    jsonschema.validate(json.loads(call.function.arguments), WEATHER["function"]["parameters"])


def test_an_engine_goes_on_after_a_bad_schema(chat: Running) -> None:
    hostile = {"allOf": [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(1, 40)]}
    with pytest.raises(openai.BadRequestError, match="make it simpler") as refused:
        chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, response_format=schema_format(hostile))
    assert refused.value.param == "response_format.json_schema.schema"
    assert chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, max_tokens=2).choices


def chat_row(**more: Any) -> dict[str, Any]:
    return {"model": "tiny-chat", "messages": HELLO, "max_tokens": 2, **more}


def tool_row(function: Any, **more: Any) -> dict[str, Any]:
    return chat_row(tools=[{"type": "function", "function": function}], **more)


def message_row(*messages: Any) -> dict[str, Any]:
    return chat_row(messages=list(messages))


CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ROWS: list[tuple[dict[str, Any], str, str]] = [
    (chat_row(response_format="json"), "response_format", "expected an object"),
    (chat_row(response_format={}), "response_format.type", "Missing"),
    (chat_row(response_format={"type": "xml"}), "response_format.type", "'json_object'"),
    (chat_row(response_format={"type": "json_schema"}), "response_format.json_schema", "json_schema"),
    (
        chat_row(response_format={"type": "json_object", "json_schema": {"name": "a", "schema": {}}}),
        "response_format.json_schema",
        "no other",
    ),
    (chat_row(response_format={"type": "json_schema", "json_schema": {"schema": {}}}), "response_format.json_schema.name", "Missing"),
    (chat_row(response_format={"type": "json_schema", "json_schema": {"name": "a"}}), "response_format.json_schema.schema", "Missing"),
    (
        chat_row(response_format={"type": "json_schema", "json_schema": {"name": "a b", "schema": {}}}),
        "response_format.json_schema.name",
        "letters",
    ),
    (
        chat_row(response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": 5}}),
        "response_format.json_schema.schema",
        "object",
    ),
    (chat_row(response_format=schema_format({"type": "banana"})), "response_format.json_schema.schema.type", "one of"),
    (chat_row(response_format=schema_format({"not": {}})), "response_format.json_schema.schema.not", "'not' is not supported"),
    (
        chat_row(response_format=schema_format({"properties": {"a": {"uniqueItems": True}}})),
        "response_format.json_schema.schema.properties.a.uniqueItems",
        "remove it",
    ),
    (chat_row(response_format=schema_format({"$ref": "#/$defs/x"})), "response_format.json_schema.schema.$ref", "points to nothing"),
    (chat_row(response_format=schema_format({"$ref": "#"})), "response_format.json_schema.schema", "nothing fits"),
    (chat_row(response_format=schema_format({"type": "string", "pattern": "("})), "response_format.json_schema.schema", "regex"),
    (
        chat_row(response_format=schema_format({"type": "string", "pattern": "a" * 2000})),
        "response_format.json_schema.schema.pattern",
        "1000",
    ),
    (chat_row(response_format=schema_format({"enum": ["x" * 100] * 4000})), "response_format.json_schema.schema", "256 KiB"),
    (chat_row(tools={}), "tools", "expected an array"),
    (chat_row(tools=[5]), "tools[0]", "expected an object"),
    (chat_row(tools=[{"type": "web_search"}]), "tools[0].function", "Missing"),
    (chat_row(tools=[{"type": "web_search", "function": {"name": "f"}}]), "tools[0].type", "'function'"),
    (chat_row(tools=[{"type": "function"}]), "tools[0].function", "Missing"),
    (tool_row({}), "tools[0].function.name", "Missing"),
    (tool_row({"name": "a b"}), "tools[0].function.name", "letters"),
    (tool_row({"name": "x" * 65}), "tools[0].function.name", "1 to 64"),
    (tool_row({"name": "f", "parameters": []}), "tools[0].function.parameters", "expected an object"),
    (tool_row({"name": "f", "parameters": {"description": "x" * 300_000}}), "tools[0].function.parameters", "256 KiB"),
    (tool_row({"name": "f", "strict": "yes"}), "tools[0].function.strict", "true or false"),
    (tool_row({"name": "f", "strict": True, "parameters": {"not": {}}}), "tools[0].function.parameters.not", "not supported"),
    (tool_row({"name": "f", "parameters": {"type": "banana"}}, tool_choice="required"), "tools[0].function.parameters.type", "one of"),
    (chat_row(tools=[WEATHER, WEATHER]), "tools", "same name"),
    (chat_row(tools=[WEATHER] * 129), "tools", "at most 128"),
    (chat_row(tool_choice="required"), "tool_choice", "only allowed with tools"),
    (chat_row(tools=[WEATHER], tool_choice="maybe"), "tool_choice", "expected none, auto, required"),
    (chat_row(tools=[WEATHER], tool_choice={"type": "function"}), "tool_choice", "expected none, auto, required"),
    (chat_row(tools=[WEATHER], tool_choice={"type": "function", "function": {"name": "g"}}), "tool_choice", "not among the tools"),
    (chat_row(parallel_tool_calls="no"), "parallel_tool_calls", "true or false"),
    (chat_row(functions=[{"name": "f"}]), "functions", "replaced by 'tools'"),
    (chat_row(function_call={"name": "f"}), "function_call", "replaced by 'tool_choice'"),
    (chat_row(reasoning_effort="high"), "reasoning_effort", "does not reason"),
    (chat_row(reasoning_effort="huge"), "reasoning_effort", "'low'"),
    (message_row({"role": "tool", "content": "x"}), "messages[0]", "tool_call_id"),
    (message_row({"role": "user", "content": "x", "tool_call_id": "c"}), "messages[0]", "tool_call_id"),
    (message_row({"role": "user", "content": "x", "tool_calls": [CALL]}), "messages[0]", "only messages of the assistant"),
    (message_row({"role": "assistant", "tool_calls": [{"id": "c"}]}), "messages[0].tool_calls[0].function", "Missing"),
    (message_row({"role": "assistant", "content": None}), "messages[0].content", "expected a string"),
    (message_row({"role": "assistant", "tool_calls": [CALL] * 129}), "messages[0].tool_calls", "at most 128"),
    (
        message_row({"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": {}}}]}),
        "messages[0].tool_calls[0].function.arguments",
        "expected a string",
    ),
    (
        chat_row(messages=[*HELLO, {"role": "assistant", "content": "{"}], response_format={"type": "json_object"}),
        "messages",
        "begins anew",
    ),
]


@pytest.mark.parametrize(("body", "param", "words"), ROWS, ids=range(len(ROWS)))
def test_what_is_refused_names_its_field(chat: Running, body: dict[str, Any], param: str, words: str) -> None:
    answer = httpx.post(f"{chat.url}/v1/chat/completions", json=body)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["type"] == "invalid_request_error"
    assert error["param"] == param
    assert words in error["message"]


def test_a_pattern_that_breaks_while_it_is_followed_is_the_clients_error(chat: Running) -> None:
    """It compiles, and its states grow past the library's bound as text comes."""
    schema = {"type": "string", "pattern": "^(.{1,500}){1,500}$"}
    body = {"model": chat.name, "messages": HELLO, "max_tokens": 50, "response_format": schema_format(schema)}
    reply = httpx.post(f"{chat.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith("response_format")
    assert chat.openai().chat.completions.create(model=chat.name, messages=HELLO, max_tokens=2).choices
