"""Bad input of structured output and tools: each row gets its field and words."""

from typing import Any

import httpx
import pytest

from .agents import HELLO, WEATHER, schema_format
from .conftest import Running


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
    (
        chat_row(response_format=schema_format({"not": {"pattern": "a"}})),
        "response_format.json_schema.schema.not",
        "what does not fit 'pattern' cannot be told",
    ),
    (
        chat_row(response_format=schema_format({"properties": {"a": {"uniqueItems": True}}})),
        "response_format.json_schema.schema.properties.a.uniqueItems",
        "list those in 'enum'",
    ),
    (chat_row(response_format=schema_format({"$ref": "#/$defs/x"})), "response_format.json_schema.schema.$ref", "points to nothing"),
    (chat_row(response_format=schema_format({"$ref": "#"})), "response_format.json_schema.schema", "nothing fits"),
    (
        chat_row(response_format=schema_format({"type": "string", "pattern": "("})),
        "response_format.json_schema.schema",
        "the pattern '(' cannot be kept: unclosed group; write it another way",
    ),
    (
        chat_row(response_format=schema_format({"type": "object", "properties": {"a": {"type": "string", "pattern": "(?=x)y"}}})),
        "response_format.json_schema.schema",
        "the pattern '(?=x)y' cannot be kept: look-around",
    ),
    (
        chat_row(response_format=schema_format({"type": "string", "pattern": "a" * 2000})),
        "response_format.json_schema.schema.pattern",
        "1000",
    ),
    (chat_row(response_format=schema_format({"enum": ["x" * 100] * 4000})), "response_format.json_schema.schema", "256 KiB"),
    (chat_row(tools={}), "tools", "expected an array"),
    (chat_row(tools=[5]), "tools[0]", "expected an object"),
    (chat_row(tools=[{"type": "web_search"}]), "tools[0]", "'web_search' are not supported"),
    (chat_row(tools=[{"type": 5, "function": {"name": "f"}}]), "tools[0].type", "'function'"),
    (chat_row(tools=[{"type": "function"}]), "tools[0].function", "Missing"),
    (tool_row({}), "tools[0].function.name", "Missing"),
    (tool_row({"name": "a b"}), "tools[0].function.name", "letters"),
    (tool_row({"name": "x" * 65}), "tools[0].function.name", "1 to 64"),
    (tool_row({"name": "f", "parameters": []}), "tools[0].function.parameters", "expected an object"),
    (tool_row({"name": "f", "parameters": {"description": "x" * 300_000}}), "tools[0].function.parameters", "256 KiB"),
    (tool_row({"name": "f", "strict": "yes"}), "tools[0].function.strict", "true or false"),
    (tool_row({"name": "f", "strict": True, "parameters": {"not": {"pattern": "a"}}}), "tools[0].function.parameters.not", "not supported"),
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
