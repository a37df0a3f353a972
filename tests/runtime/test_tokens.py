"""/tokenize and /detokenize in vLLM's shapes, and what a server says of itself."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from .conftest import Running
from .refusals import HELLO, TYPES, assert_error


def ask(server: Running, path: str, **body: Any) -> Any:
    answer = httpx.post(f"{server.url}/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_text_goes_there_and_back(chat: Running) -> None:
    text = "Hello, wörld! 你好"
    told = ask(chat, "tokenize", model="tiny-chat", prompt=text, return_token_strs=True)
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"])
    assert told["max_model_len"] == 2048
    assert ask(chat, "detokenize", model="tiny-chat", tokens=told["tokens"])["prompt"] == text
    usage = chat.openai().completions.create(model="tiny-chat", prompt=text, max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens == told["count"]


def test_a_conversation_is_counted_as_it_would_be_read(chat: Running) -> None:
    told = ask(chat, "tokenize", messages=HELLO)
    assert told["token_strs"] is None
    usage = chat.openai().chat.completions.create(model="tiny-chat", messages=HELLO, max_tokens=1).usage
    assert usage is not None
    assert usage.prompt_tokens == told["count"]
    assert ask(chat, "tokenize", messages=HELLO, add_generation_prompt=False)["count"] < told["count"]
    assert "Hello" in ask(chat, "detokenize", tokens=told["tokens"])["prompt"]


def test_an_encoder_has_special_tokens_to_leave_out(embed: Running) -> None:
    whole = ask(embed, "tokenize", model="tiny-embed", prompt="Hello")
    bare = ask(embed, "tokenize", prompt="Hello", add_special_tokens=False, return_token_strs=True)
    assert whole["tokens"][1:-1] == bare["tokens"]
    assert all(bare["token_strs"])
    usage = embed.openai().embeddings.create(model="tiny-embed", input="Hello").usage
    assert usage.prompt_tokens == whole["count"]
    assert ask(embed, "detokenize", tokens=bare["tokens"])["prompt"].strip().lower() == "hello"


def test_nothing_is_no_tokens(chat: Running) -> None:
    assert ask(chat, "tokenize", prompt="", add_special_tokens=False)["tokens"] == []
    assert ask(chat, "detokenize", tokens=[])["prompt"] == ""


# (path, body, status, param, words)
ROWS: list[tuple[str, Any, int, str | None, str]] = [
    ("tokenize", {}, 400, "prompt", "either prompt or messages"),
    ("tokenize", [], 400, None, "must be a JSON object"),
    ("tokenize", {"prompt": "x", "messages": HELLO}, 400, "prompt", "either prompt or messages"),
    ("tokenize", {"model": "other", "prompt": "x"}, 404, "model", "does not exist here"),
    ("tokenize", {"model": 5, "prompt": "x"}, 400, "model", "expected a string"),
    ("tokenize", {"prompt": 5}, 400, "prompt", "expected a string"),
    ("tokenize", {"prompt": "x", "foo": 1}, 400, "foo", "Unrecognized"),
    ("tokenize", {"prompt": "x" * 1_000_000}, 400, "prompt", "1000000 characters"),
    ("tokenize", {"prompt": "x", "tools": [{}]}, 400, "tools", "belongs to messages"),
    ("tokenize", {"prompt": "x", "add_generation_prompt": True}, 400, "add_generation_prompt", "belongs to messages"),
    ("tokenize", {"prompt": "x", "add_special_tokens": "no"}, 400, "add_special_tokens", "expected true or false"),
    ("tokenize", {"messages": HELLO, "add_special_tokens": True}, 400, "add_special_tokens", "chat template"),
    ("tokenize", {"messages": HELLO, "chat_template": "{{ x }}"}, 400, "chat_template", "not supported yet"),
    ("tokenize", {"messages": []}, 400, "messages", "at least 1 element"),
    ("tokenize", {"messages": ["Hello"]}, 400, "messages[0]", "expected an object"),
    ("tokenize", {"messages": [{"role": "king", "content": "x"}]}, 400, "messages[0].role", "'user'"),
    ("tokenize", {"messages": [{"role": "user", "content": "x" * 1_000_000}]}, 400, "messages", "characters"),
    ("detokenize", {}, 400, "tokens", "Missing required parameter"),
    ("detokenize", {"tokens": "x"}, 400, "tokens", "expected an array"),
    ("detokenize", {"tokens": [1.5]}, 400, "tokens[0]", "expected an integer"),
    ("detokenize", {"tokens": [-1]}, 400, "tokens[0]", "at least 0"),
    ("detokenize", {"tokens": [2**31]}, 400, "tokens[0]", "below"),
    ("detokenize", {"tokens": [99_999]}, 400, "tokens", "below 518"),
    ("detokenize", {"tokens": [1], "skip_special_tokens": True}, 400, "skip_special_tokens", "Unrecognized"),
]


@pytest.mark.parametrize("row", ROWS)
def test_what_is_refused(chat: Running, row: tuple[str, Any, int, str | None, str]) -> None:
    path, body, status, param, words = row
    assert_error(httpx.post(f"{chat.url}/{path}", json=body), status, TYPES[status], param, None, words)


def test_an_encoder_has_no_conversations(embed: Running) -> None:
    answer = httpx.post(f"{embed.url}/tokenize", json={"messages": HELLO})
    assert_error(answer, 400, TYPES[400], "model", "unsupported_capability", "/v1/embeddings")


def test_a_server_of_several_models_wants_a_name(start: Callable[..., Running]) -> None:
    server = start(("builtin://tiny-embed", "other=builtin://tiny-embed"))
    assert ask(server, "tokenize", model="other", prompt="Hello")["count"] > 0
    answer = httpx.post(f"{server.url}/tokenize", json={"prompt": "Hello"})
    assert_error(answer, 400, TYPES[400], "model", "missing_required_parameter", "several")


def test_what_a_server_says_of_itself(chat: Running, embed: Running) -> None:
    assert httpx.get(f"{chat.url}/version").json()["version"].count(".") == 2
    ready = httpx.get(f"{chat.url}/ready").json()
    warm = {"status": "ready", "warmup": "done"}
    assert ready == {"status": "ready", "models": {"tiny-chat": {"status": "ready", "capabilities": {"chat": warm, "completions": warm}}}}
    (model,) = httpx.get(f"{embed.url}/v1/models").json()["data"]
    assert (model["capabilities"], model["max_model_len"], model["embedding_size"]) == (["embeddings", "rerank"], 256, 64)
    assert (model["architecture"], model["dtype"]) == ("bert", "F32")
    assert model["parameters"] * 4 < model["size"]
