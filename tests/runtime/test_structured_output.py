"""Structured output through HTTP: random weights that keep to a schema, and the clients that read it."""

import asyncio
import json
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import httpx
import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

from .agents import HELLO, PERSON, schema_format
from .conftest import Running

#: Makes random weights come to an end: ``"``, ``]`` and ``}`` are likelier than all that may go on.
ENDING = {"4": 12.0, "63": 12.0, "95": 12.0}


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


def test_an_engine_goes_on_after_a_bad_schema(chat: Running) -> None:
    hostile = {"allOf": [{"type": "string", "pattern": f"^.*a.{{{i}}}$"} for i in range(1, 40)]}
    seconds = []
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(openai.BadRequestError, match="make it simpler") as refused:
            chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, response_format=schema_format(hostile))
        seconds.append(time.monotonic() - began)
        assert refused.value.param == "response_format.json_schema.schema"
    assert seconds[1] < seconds[0] / 2, "what took too long is not tried again"
    assert chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, max_tokens=2).choices


def test_a_pattern_that_breaks_while_it_is_followed_is_the_clients_error(chat: Running) -> None:
    """It compiles, and its states grow past the library's bound as text comes."""
    schema = {"type": "string", "pattern": "^(.{1,500}){1,500}$"}
    body = {"model": chat.name, "messages": HELLO, "max_tokens": 50, "response_format": schema_format(schema)}
    reply = httpx.post(f"{chat.url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 400, reply.text
    assert reply.json()["error"]["param"].startswith("response_format")
    assert chat.openai().chat.completions.create(model=chat.name, messages=HELLO, max_tokens=2).choices
