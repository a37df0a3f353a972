"""Bad input: each row gets its status, error type, param or code and words."""

import gzip
import json
from typing import Any

import httpx
import pytest

from .refusals import CHAT, HELLO, assert_error, identify

TEXT = {"model": "tiny-chat", "prompt": "Hello", "max_tokens": 2}
VECTOR = {"model": "tiny-embed", "input": "Hello"}

# (body, param, code, words of the message)
CHAT_ROWS: list[tuple[Any, str | None, str | None, str]] = [
    ({}, "model", "missing_required_parameter", "Missing required parameter"),
    ({"model": "tiny-chat"}, "messages", "missing_required_parameter", "Missing required parameter: 'messages'"),
    ([], None, "invalid_type", "must be a JSON object"),
    ("text", None, "invalid_type", "must be a JSON object"),
    (None, None, None, "JSON object"),
    ({**CHAT, "model": 5}, "model", "invalid_type", "expected a string, got 5"),
    ({**CHAT, "model": ""}, "model", "invalid_value", "at least 1 character"),
    ({**CHAT, "messages": []}, "messages", "invalid_value", "at least 1 element"),
    ({**CHAT, "messages": "Hello"}, "messages", "invalid_type", "expected an array"),
    ({**CHAT, "messages": ["Hello"]}, "messages[0]", "invalid_type", "expected an object"),
    ({**CHAT, "messages": [{}]}, "messages[0].role", "missing_required_parameter", "messages[0].role"),
    ({**CHAT, "messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter", "messages[0].content"),
    ({**CHAT, "messages": [{"role": "king", "content": "x"}]}, "messages[0].role", "invalid_value", "'user'"),
    ({**CHAT, "messages": [{"role": "user", "content": 5}]}, "messages[0].content", "invalid_type", "expected a string"),
    ({**CHAT, "messages": [{"role": "user", "content": None}]}, "messages[0].content", "invalid_type", "expected a string, got null"),
    ({**CHAT, "messages": [{"role": "user", "content": []}]}, "messages[0].content", "invalid_value", "at least one part"),
    (
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]},
        "messages[0].content[0].image_url.url",
        "invalid_value",
        "text only",
    ),
    ({**CHAT, "messages": [{"role": "user", "content": "x", "colour": "red"}]}, "messages[0].colour", "unknown_parameter", "colour"),
    (
        {**CHAT, "messages": [{"role": "assistant", "content": "x", "tool_calls": [{"id": "1", "type": "function"}]}]},
        "messages[0].tool_calls[0].function",
        "missing_required_parameter",
        "messages[0].tool_calls[0].function",
    ),
    ({**CHAT, "foo": 1}, "foo", "unknown_parameter", "Unrecognized request argument supplied: foo"),
    ({**CHAT, "temprature": 1}, "temprature", "unknown_parameter", "Did you mean 'temperature'?"),
    ({**CHAT, "guided_json": {}}, "guided_json", "unknown_parameter", "Here it is 'response_format'."),
    ({**CHAT, "max_new_tokens": 5}, "max_new_tokens", "unknown_parameter", "Here it is 'max_tokens'."),
    (
        {**CHAT, "stream": True, "stream_options": {"include_use": True}},
        "stream_options.include_use",
        "unknown_parameter",
        "'include_usage'?",
    ),
    ({**CHAT, "moderation": {}}, "moderation", "unsupported_parameter", "leave it out, got an object"),
    (
        {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "x", "weight": 2}]}]},
        "messages[0].content",
        "invalid_value",
        "part 0: 'weight' is not supported; leave it out",
    ),
    ({**CHAT, "temperature": -0.1}, "temperature", "invalid_value", "at least 0"),
    ({**CHAT, "temperature": 2.1}, "temperature", "invalid_value", "at most 2"),
    ({**CHAT, "temperature": "hot"}, "temperature", "invalid_type", "expected a number, got 'hot'"),
    ({**CHAT, "temperature": True}, "temperature", "invalid_type", "expected a number"),
    ({**CHAT, "temperature": 1e308}, "temperature", "invalid_value", "at most 2"),
    ({**CHAT, "top_p": 1.5}, "top_p", "invalid_value", "at most 1"),
    ({**CHAT, "top_p": -1}, "top_p", "invalid_value", "at least 0"),
    ({**CHAT, "top_k": -5}, "top_k", "invalid_value", "at least -1"),
    ({**CHAT, "top_k": 1.5}, "top_k", "invalid_type", "expected an integer"),
    ({**CHAT, "min_p": 2}, "min_p", "invalid_value", "at most 1"),
    ({**CHAT, "presence_penalty": 3}, "presence_penalty", "invalid_value", "at most 2"),
    ({**CHAT, "frequency_penalty": -3}, "frequency_penalty", "invalid_value", "at least -2"),
    ({**CHAT, "repetition_penalty": 0}, "repetition_penalty", "invalid_value", "at least 0.01"),
    ({**CHAT, "repetition_penalty": 1e-45}, "repetition_penalty", "invalid_value", "at least 0.01"),
    ({**CHAT, "seed": "x"}, "seed", "invalid_type", "expected an integer"),
    ({**CHAT, "seed": 2**63}, "seed", "invalid_value", "at most"),
    ({**CHAT, "seed": 2**80}, "seed", None, "seed"),
    ({**CHAT, "max_tokens": 0}, "max_tokens", "invalid_value", "at least 1"),
    ({**CHAT, "max_tokens": -1}, "max_tokens", "invalid_value", "at least 1"),
    ({**CHAT, "max_tokens": 1.5}, "max_tokens", "invalid_type", "expected an integer"),
    ({**CHAT, "max_tokens": 10**12}, "max_tokens", "invalid_value", "at most"),
    ({**CHAT, "max_tokens": 5000}, "messages", "context_length_exceeded", "maximum context length is 2048 tokens"),
    ({**CHAT, "max_completion_tokens": 3}, "max_completion_tokens", "invalid_value", "alone"),
    ({**CHAT, "messages": [{"role": "user", "content": "word " * 4000}]}, "messages", "context_length_exceeded", "Shorten messages"),
    ({**CHAT, "messages": [{"role": "user", "content": "x" * 1_000_000}]}, "messages", "context_length_exceeded", "Shorten"),
    ({**CHAT, "stop": 5}, "stop", "invalid_type", "expected an array"),
    ({**CHAT, "stop": [""]}, "stop[0]", "invalid_value", "at least 1 character"),
    ({**CHAT, "stop": ["a"] * 17}, "stop", "invalid_value", "at most 16"),
    ({**CHAT, "stop": [5]}, "stop[0]", "invalid_type", "expected a string"),
    ({**CHAT, "n": 0}, "n", "invalid_value", "at least 1"),
    ({**CHAT, "n": -1}, "n", "invalid_value", "at least 1"),
    ({**CHAT, "n": 17}, "n", "invalid_value", "16 choices to a prompt at most"),
    ({**CHAT, "n": 10**6}, "n", "invalid_value", "at most 128"),
    ({**CHAT, "n": 1.5}, "n", "invalid_type", "expected an integer"),
    ({**CHAT, "n": "2"}, "n", "invalid_type", "expected an integer, got '2'"),
    ({**CHAT, "stream": "yes"}, "stream", "invalid_type", "expected true or false"),
    ({**CHAT, "stream_options": {"include_usage": True}}, "stream_options", "invalid_value", "only allowed with stream: true"),
    ({**CHAT, "stream": True, "stream_options": {"foo": 1}}, "stream_options.foo", "unknown_parameter", "foo"),
    ({**CHAT, "tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter", "tools[0].function"),
    ({**CHAT, "tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0]", "invalid_value", "'custom' are not supported; send"),
    ({**CHAT, "tool_choice": "required"}, "tool_choice", None, "tools"),
    ({**CHAT, "response_format": {"type": "yaml"}}, "response_format.type", "invalid_value", "'json_schema'"),
    ({**CHAT, "logprobs": 3}, "logprobs", "invalid_type", "expected true or false"),
    ({**CHAT, "logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value", "at most 20"),
    ({**CHAT, "logprobs": True, "top_logprobs": -1}, "top_logprobs", "invalid_value", "at least 0"),
    ({**CHAT, "top_logprobs": 2}, "top_logprobs", "invalid_value", "only allowed with logprobs: true"),
    ({**CHAT, "logprobs": False, "top_logprobs": 2}, "top_logprobs", "invalid_value", "only allowed with logprobs: true"),
    ({**CHAT, "logit_bias": [1]}, "logit_bias", "invalid_value", "expected an object from token ids to numbers"),
    ({**CHAT, "logit_bias": {"Hello": 1}}, "logit_bias", "invalid_value", "'Hello' is no token id"),
    ({**CHAT, "logit_bias": {"-1": 1}}, "logit_bias", "invalid_value", "'-1' is no token id"),
    ({**CHAT, "logit_bias": {"5": 101}}, "logit_bias", "invalid_value", "101 is no number from -100 to 100"),
    ({**CHAT, "logit_bias": {"5": "1"}}, "logit_bias", "invalid_value", "is no number"),
    ({**CHAT, "logit_bias": {"5": None}}, "logit_bias", "invalid_value", "is no number"),
    ({**CHAT, "logit_bias": {"518": 1}}, "logit_bias", "invalid_value", "below 518, and 'logit_bias' has 518"),
    ({**CHAT, "logit_bias": {str(i): 1 for i in range(1025)}}, "logit_bias", "invalid_value", "at most 1024"),
    ({**CHAT, "chat_template_kwargs": 5}, "chat_template_kwargs", "invalid_type", "expected an object"),
    ({**CHAT, "chat_template_kwargs": {"chat_template": "x"}}, "chat_template_kwargs.chat_template", "invalid_value", "enable_thinking"),
    ({**CHAT, "chat_template_kwargs": {"tokenize": False}}, "chat_template_kwargs.tokenize", "invalid_value", "--chat-template-kwargs"),
    ({**CHAT, "chat_template": "{{ 1 }}"}, "chat_template", "unknown_parameter", "Unrecognized"),
    ({**CHAT, "continue_final_message": True}, "continue_final_message", "invalid_value", "needs a last message of the assistant's"),
    (
        {**CHAT, "continue_final_message": True, "add_generation_prompt": True},
        "continue_final_message",
        "invalid_value",
        "only allowed without add_generation_prompt",
    ),
    ({**CHAT, "add_generation_prompt": "no"}, "add_generation_prompt", "invalid_type", "expected true or false"),
    ({**CHAT, "messages": [{**HELLO[0], "name": ""}]}, "messages[0].name", "invalid_value", "at least 1 character"),
    ({**CHAT, "messages": [{**HELLO[0], "name": "x" * 65}]}, "messages[0].name", "invalid_value", "at most 64 character"),
    (
        {**CHAT, "stream": True, "stream_options": {"continuous_usage_stats": 1}},
        "stream_options.continuous_usage_stats",
        "invalid_type",
        "expected true or false",
    ),
    ({**CHAT, "ignore_eos": "yes"}, "ignore_eos", "invalid_type", "expected true or false"),
    ({**CHAT, "modalities": ["audio"]}, "modalities", "unsupported_parameter", "not supported yet"),
]

TEXT_ROWS: list[tuple[Any, str | None, str | None, str]] = [
    ({"model": "tiny-chat"}, "prompt", "missing_required_parameter", "prompt"),
    ({**TEXT, "prompt": ""}, "prompt", "invalid_value", "empty"),
    ({**TEXT, "prompt": []}, "prompt", "invalid_value", "empty"),
    ({**TEXT, "prompt": [""]}, "prompt", "invalid_value", "element 0 is empty"),
    ({**TEXT, "prompt": 5}, "prompt", "invalid_value", "expected a string"),
    ({**TEXT, "prompt": {"a": 1}}, "prompt", "invalid_value", "expected a string"),
    ({**TEXT, "prompt": ["a", 5]}, "prompt", "invalid_value", "expected a string"),
    ({**TEXT, "prompt": [1, -5]}, "prompt", "invalid_value", "expected a string"),
    ({**TEXT, "prompt": [99999]}, "prompt", "invalid_value", "below 518"),
    ({**TEXT, "prompt": [[1], ["a"]]}, "prompt", "invalid_value", "no token ids"),
    ({**TEXT, "prompt": ["a"] * 129}, "prompt", "invalid_value", "at most 128"),
    ({**TEXT, "prompt": "word " * 4000}, "prompt", "context_length_exceeded", "Shorten prompt"),
    ({**TEXT, "prompt": [5] * 3000}, "prompt", "context_length_exceeded", "Shorten prompt"),
    ({**TEXT, "prompt": ["a", "x" * 1_000_000]}, "prompt", "context_length_exceeded", "1000000 characters"),
    ({**TEXT, "suffix": "end"}, "suffix", "unsupported_parameter", "not supported yet"),
    ({**TEXT, "suffix": 5}, "suffix", "unsupported_parameter", "leave it out"),
    ({**TEXT, "echo": "yes"}, "echo", "invalid_type", "expected true or false"),
    ({**TEXT, "max_tokens": 0}, "max_tokens", "invalid_value", "at least 1, or 0 together with echo: true"),
    ({**TEXT, "max_tokens": -1, "echo": True}, "max_tokens", "invalid_value", "at least 0"),
    ({**TEXT, "best_of": 0}, "best_of", "invalid_value", "at least 1"),
    ({**TEXT, "best_of": 17}, "best_of", "invalid_value", "16 choices"),
    ({**TEXT, "best_of": 129}, "best_of", "invalid_value", "at most 128"),
    ({**TEXT, "best_of": 2, "n": 3}, "best_of", "invalid_value", "at least n, which is 3"),
    ({**TEXT, "best_of": 2, "stream": True}, "best_of", "invalid_value", "cannot be streamed"),
    ({**TEXT, "logprobs": 6}, "logprobs", "invalid_value", "at most 5"),
    ({**TEXT, "logprobs": True}, "logprobs", "invalid_type", "expected an integer"),
    ({**TEXT, "n": 0}, "n", "invalid_value", "at least 1"),
    ({**TEXT, "n": 16, "prompt": ["a"] * 17}, "prompt", "invalid_value", "Send fewer prompts at once"),
    ({**TEXT, "logit_bias": {"9999999999": 1}}, "logit_bias", "invalid_value", "no token id"),
    ({**TEXT, "stop": ["a"] * 17}, "stop", "invalid_value", "at most 16"),
    ({**TEXT, "seed": 1.5}, "seed", "invalid_type", "expected an integer"),
    ({**TEXT, "temperature": 3}, "temperature", "invalid_value", "at most 2"),
    ({**TEXT, "stream_options": {}}, "stream_options", "invalid_value", "only allowed with stream: true"),
    ({**TEXT, "tools": []}, "tools", "unknown_parameter", "Unrecognized"),
    ({**TEXT, "prompt": None}, "prompt", "invalid_value", "expected a string"),
    ({**TEXT, "prompt": [True, False]}, "prompt", "invalid_value", "expected a string"),
    ({**TEXT, "prompt": [[]]}, "prompt", "invalid_value", "element 0 is empty"),
    ({**TEXT, "messages": HELLO}, "messages", "unknown_parameter", "Unrecognized"),
]

ITEMS = {"model": "tiny-chat", "input": "Hello", "max_output_tokens": 2}

RESPONSES_ROWS: list[tuple[Any, str | None, str | None, str]] = [
    ({}, "model", "missing_required_parameter", "Missing required parameter: 'model'"),
    ({"model": "tiny-chat"}, "input", "missing_required_parameter", "Missing required parameter: 'input'"),
    ([], None, "invalid_type", "must be a JSON object"),
    ({**ITEMS, "input": 5}, "input", "invalid_value", "expected a string, or an array of input items"),
    ({**ITEMS, "input": []}, "input", "invalid_value", "is empty; send a text"),
    ({**ITEMS, "input": None}, "input", "invalid_value", "expected a string"),
    ({**ITEMS, "input": ["Hello"]}, "input[0]", "invalid_type", "expected an object"),
    ({**ITEMS, "input": [{}]}, "input[0].role", "missing_required_parameter", "input[0].role"),
    ({**ITEMS, "input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter", "input[0].content"),
    ({**ITEMS, "input": [{"role": "king", "content": "x"}]}, "input[0].role", "invalid_value", "'developer'"),
    ({**ITEMS, "input": [{"role": "user", "content": 5}]}, "input[0].content", "invalid_type", "expected a string"),
    (
        {**ITEMS, "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:image/png;base64,x"}]}]},
        "input[0].content[0].image_url.url",
        "invalid_value",
        "text only",
    ),
    (
        {**ITEMS, "input": [{"role": "user", "content": [{"type": "input_image", "file_id": "x"}]}]},
        "input[0].content",
        None,
        "keeps no files",
    ),
    ({**ITEMS, "input": [{"role": "user", "content": ["x"]}]}, "input[0].content", "invalid_value", "input_text"),
    ({**ITEMS, "input": [{"role": "user", "content": "x", "colour": "red"}]}, "input[0].colour", "unknown_parameter", "colour"),
    ({**ITEMS, "input": [{"type": "item_reference", "id": "x"}]}, "input[0]", "invalid_value", "send the item itself"),
    ({**ITEMS, "input": [{"type": "computer_call"}]}, "input[0]", "invalid_value", "'computer_call' are not supported; message"),
    ({**ITEMS, "input": [{"type": 5}]}, "input[0]", "invalid_value", "not supported"),
    ({**ITEMS, "input": [{"type": "function_call"}]}, "input[0].call_id", "missing_required_parameter", "call_id"),
    ({**ITEMS, "input": [{"type": "function_call_output", "call_id": "x"}]}, "input[0].output", "missing_required_parameter", "output"),
    ({**ITEMS, "input": "x" * 1_000_000}, "input", "context_length_exceeded", "Shorten"),
    ({**ITEMS, "input": "word " * 4000}, "input", "context_length_exceeded", "Shorten input"),
    ({**ITEMS, "max_output_tokens": 5000}, "input", "context_length_exceeded", "or lower max_output_tokens"),
    ({**ITEMS, "max_output_tokens": 0}, "max_output_tokens", "invalid_value", "at least 1"),
    ({**ITEMS, "max_tokens": 5}, "max_tokens", "unknown_parameter", "Unrecognized"),
    ({**ITEMS, "messages": HELLO}, "messages", "unknown_parameter", "Unrecognized"),
    ({**ITEMS, "n": 2}, "n", "unknown_parameter", "Unrecognized"),
    ({**ITEMS, "instructions": 5}, "instructions", "invalid_type", "expected a string"),
    ({**ITEMS, "temperature": 3}, "temperature", "invalid_value", "at most 2"),
    ({**ITEMS, "top_p": "x"}, "top_p", "invalid_type", "expected a number"),
    ({**ITEMS, "top_k": -5}, "top_k", "invalid_value", "at least -1"),
    ({**ITEMS, "seed": "x"}, "seed", "invalid_type", "expected an integer"),
    ({**ITEMS, "logit_bias": {"x": 1}}, "logit_bias", "invalid_value", "no token id"),
    ({**ITEMS, "top_logprobs": 21}, "top_logprobs", "invalid_value", "at most 20"),
    ({**ITEMS, "include": "x"}, "include", "invalid_type", "expected an array"),
    ({**ITEMS, "stream": "yes"}, "stream", "invalid_type", "expected true or false"),
    ({**ITEMS, "stream_options": {"include_usage": True}}, "stream_options.include_usage", "unknown_parameter", "Unrecognized"),
    ({**ITEMS, "previous_response_id": "resp_1"}, "previous_response_id", "unsupported_parameter", "whole conversation in 'input'"),
    ({**ITEMS, "conversation": "conv_1"}, "conversation", "unsupported_parameter", "stores no responses"),
    ({**ITEMS, "prompt": {"id": "x"}}, "prompt", "unsupported_parameter", "stores no responses"),
    ({**ITEMS, "background": True}, "background", "unsupported_parameter", "leave it out"),
    ({**ITEMS, "truncation": "auto"}, "truncation", "unsupported_parameter", "leave it out, or send \"disabled\", got 'auto'"),
    ({**ITEMS, "background": True}, "background", "unsupported_parameter", "leave it out, or send false, got true"),
    ({**ITEMS, "max_tokens": 5}, "max_tokens", "unknown_parameter", "Here it is 'max_output_tokens'."),
    ({**ITEMS, "max_tool_calls": 3}, "max_tool_calls", "unsupported_parameter", "leave it out"),
    ({**ITEMS, "metadata": {"a": 5}}, "metadata.a", "invalid_type", "expected a string"),
    ({**ITEMS, "metadata": {str(i): "x" for i in range(17)}}, "metadata", "invalid_value", "at most 16"),
    ({**ITEMS, "text": "json"}, "text", "invalid_type", "expected an object"),
    ({**ITEMS, "tools": {}}, "tools", "invalid_type", "expected an array"),
    ({**ITEMS, "tools": [{"type": "web_search"}]}, "tools[0]", "invalid_value", "'web_search' are not supported; send functions"),
    ({**ITEMS, "chat_template_kwargs": {"tools": []}}, "chat_template_kwargs.tools", "invalid_value", "not for requests to set"),
]

VECTOR_ROWS: list[tuple[Any, str | None, str | None, str]] = [
    ({"model": "tiny-embed"}, "input", "missing_required_parameter", "input"),
    ({**VECTOR, "input": ""}, "input", "invalid_value", "empty"),
    ({**VECTOR, "input": []}, "input", "invalid_value", "empty"),
    ({**VECTOR, "input": None}, "input", "invalid_value", "expected a string"),
    ({**VECTOR, "input": [True]}, "input", "invalid_value", "expected a string"),
    ({**VECTOR, "input": [1.5]}, "input", "invalid_value", "expected a string"),
    ({**VECTOR, "input": [600]}, "input", "invalid_value", "below 518"),
    ({**VECTOR, "input": ["a"] * 2049}, "input", "invalid_value", "at most 2048"),
    ({**VECTOR, "input": ["a", "word " * 1000]}, "input", "context_length_exceeded", "input 1"),
    ({**VECTOR, "input": ["a", "x" * 1_000_000]}, "input", "context_length_exceeded", "input 1 has 1000000 characters"),
    ({**VECTOR, "encoding_format": "hex"}, "encoding_format", "invalid_value", "'base64'"),
    ({**VECTOR, "dimensions": 0}, "dimensions", "invalid_value", "at least 1"),
    ({**VECTOR, "dimensions": 65}, "dimensions", "invalid_value", "this model has 64"),
    ({**VECTOR, "dimensions": "8"}, "dimensions", "invalid_type", "expected an integer"),
    ({**VECTOR, "foo": 1}, "foo", "unknown_parameter", "Unrecognized"),
]


def test_calls_whose_arguments_are_nested_deep_are_read_as_text(chat):
    function = {"name": "f", "arguments": '{"a":' * 1020 + "1" + "}" * 1020}
    called = {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]}
    messages = [*HELLO, called, {"role": "tool", "tool_call_id": "1", "content": "x"}]
    response = httpx.post(f"{chat.url}/v1/chat/completions", json={**CHAT, "messages": messages})
    assert response.status_code in {200, 400}, response.text


def test_a_compressed_body_is_told(chat):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    response = httpx.post(f"{chat.url}/v1/chat/completions", content=gzip.compress(json.dumps(CHAT).encode()), headers=headers)
    assert_error(response, 400, "invalid_request_error", None, "invalid_json", "content-encoding is 'gzip'")


@pytest.mark.parametrize(("body", "param", "code", "words"), CHAT_ROWS, ids=identify)
def test_chat(chat, body, param, code, words):
    response = httpx.post(f"{chat.url}/v1/chat/completions", content=json.dumps(body), headers={"content-type": "application/json"})
    assert_error(response, 400, "invalid_request_error", param, code, words)


@pytest.mark.parametrize(("body", "param", "code", "words"), TEXT_ROWS, ids=identify)
def test_completions(chat, body, param, code, words):
    assert_error(httpx.post(f"{chat.url}/v1/completions", json=body), 400, "invalid_request_error", param, code, words)


@pytest.mark.parametrize(("body", "param", "code", "words"), RESPONSES_ROWS, ids=identify)
def test_responses(chat, body, param, code, words):
    assert_error(httpx.post(f"{chat.url}/v1/responses", json=body), 400, "invalid_request_error", param, code, words)


@pytest.mark.parametrize(("body", "param", "code", "words"), VECTOR_ROWS, ids=identify)
def test_embeddings(embed, body, param, code, words):
    assert_error(httpx.post(f"{embed.url}/v1/embeddings", json=body), 400, "invalid_request_error", param, code, words)
