"""What Ollama's API refuses: each row gets its status and words."""

import json
from typing import Any

import httpx
import pytest

from .conftest import Running

FIXED = {"temperature": 0, "num_predict": 6}
CHAT = {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello"}], "options": FIXED, "stream": False}
TEXT = {"model": "tiny-chat", "prompt": "Hello", "options": FIXED, "stream": False}
EMBED = {"model": "tiny-embed", "input": "Hello"}

# (path, body, status, words of the error)
ROWS: list[tuple[str, Any, int, str]] = [
    ("chat", {}, 400, "Missing required parameter: 'model'"),
    ("chat", [], 400, "must be a JSON object"),
    ("chat", {**CHAT, "model": "other"}, 404, "'other' does not exist here"),
    ("chat", {**CHAT, "model": ""}, 400, "at least 1 character"),
    ("chat", {**CHAT, "model": 5}, 400, "expected a string"),
    ("chat", {**CHAT, "foo": 1}, 400, "Unrecognized request argument supplied: foo"),
    ("chat", {**CHAT, "messages": "Hello"}, 400, "expected an array"),
    ("chat", {**CHAT, "messages": [{}]}, 400, "messages[0].role"),
    ("chat", {**CHAT, "messages": [{"role": "king"}]}, 400, "'user'"),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": 5}]}, 400, "expected a string"),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": "x", "colour": "red"}]}, 400, "colour"),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": "x", "images": "abc"}]}, 400, "expected an array"),
    ("chat", {**CHAT, "messages": [{"role": "assistant", "tool_calls": [{}]}]}, 400, "tool_calls[0].function"),
    ("chat", {**CHAT, "messages": [{"role": "user", "content": "word " * 4000}]}, 400, "maximum context length is 2048"),
    ("chat", {**CHAT, "stream": "no"}, 400, "expected true or false"),
    ("chat", {**CHAT, "format": "yaml"}, 400, "format"),
    ("chat", {**CHAT, "think": "hard"}, 400, "think"),
    ("chat", {**CHAT, "think": True}, 400, "Leave 'think' out"),
    ("generate", {**TEXT, "think": "low"}, 400, "Leave 'think' out"),
    ("chat", {**CHAT, "keep_alive": "soon"}, 400, "such as 5m"),
    ("chat", {**CHAT, "keep_alive": True}, 400, "such as 5m"),
    ("chat", {**CHAT, "keep_alive": {}}, 400, "such as 5m"),
    ("chat", {**CHAT, "top_logprobs": 3}, 400, "only allowed with logprobs: true"),
    ("chat", {**CHAT, "logprobs": True, "top_logprobs": 21}, 400, "at most 20"),
    ("chat", {**CHAT, "tools": "none"}, 400, "expected an array"),
    ("chat", {**CHAT, "options": 5}, 400, "expected an object"),
    ("chat", {**CHAT, "options": {"heat": 1}}, 400, "options.heat"),
    ("chat", {**CHAT, "options": {"temperature": -1}}, 400, "at least 0"),
    ("chat", {**CHAT, "options": {"temperature": "hot"}}, 400, "expected a number"),
    ("chat", {**CHAT, "options": {"top_p": 2}}, 400, "at most 1"),
    ("chat", {**CHAT, "options": {"top_k": 1.5}}, 400, "expected an integer"),
    ("chat", {**CHAT, "options": {"num_predict": -3}}, 400, "at least -2"),
    ("chat", {**CHAT, "options": {"num_predict": 5000}}, 400, "maximum context length is 2048"),
    ("chat", {**CHAT, "options": {"num_ctx": 0}}, 400, "at least 1"),
    ("chat", {**CHAT, "options": {"repeat_penalty": 0}}, 400, "at least 0.01"),
    ("chat", {**CHAT, "options": {"mirostat": 2}}, 400, "not supported yet"),
    ("chat", {**CHAT, "options": {"stop": [""]}}, 400, "at least 1 character"),
    ("chat", {**CHAT, "options": {"stop": ["a"] * 17}}, 400, "at most 16"),
    ("generate", {**TEXT, "template": "{{ .Prompt }}"}, 400, "raw: true"),
    ("generate", {**TEXT, "suffix": "end"}, 400, "not supported yet"),
    ("generate", {**TEXT, "context": [1, 2]}, 400, "not supported yet"),
    ("generate", {**TEXT, "raw": True, "system": "x"}, 400, "leave out system and images"),
    ("generate", {**TEXT, "raw": True, "format": "json"}, 400, "chat template"),
    ("generate", {**TEXT, "width": 100}, 400, "not supported yet"),
    ("generate", {**TEXT, "prompt": "x" * 1_000_000}, 400, "Shorten"),
    ("generate", {**TEXT, "prompt": ["Hello"]}, 400, "expected a string"),
    ("embed", {"model": "tiny-chat", "input": "Hello"}, 400, "not made for embeddings"),
    ("show", {"model": "other"}, 404, "does not exist here"),
    ("show", {"name": "other"}, 404, "does not exist here"),
    ("show", {"model": "tiny-chat", "name": "tiny-chat"}, 400, "Unrecognized request argument supplied: name"),
    ("show", {}, 400, "Missing required parameter: 'model'"),
    ("show", {"model": ["tiny-chat"]}, 400, "expected a string"),
    ("pull", {}, 400, "Missing required parameter: 'model'"),
    ("pull", {"model": "x", "insecure": True}, 400, "insecure"),
    ("pull", {"model": "x", "stream": "yes"}, 400, "expected true or false"),
    ("tags", {}, 405, "Use GET"),
    ("ps", {}, 405, "Use GET"),
    ("version", {}, 405, "Use GET"),
    ("pull", {"model": "x"}, 403, "--ollama-admin"),
    ("delete", {"model": "tiny-chat"}, 405, "Use DELETE"),
    ("push", {"model": "x"}, 404, "Unknown request URL"),
]
EMBED_ROWS: list[tuple[str, Any, int, str]] = [
    ("embed", {"model": "tiny-embed"}, 400, "Missing required parameter: 'input'"),
    ("embed", {**EMBED, "input": 5}, 400, "input"),
    ("embed", {**EMBED, "input": [5]}, 400, "input"),
    ("embed", {**EMBED, "input": ["a", ""]}, 400, "'input[1]' is empty"),
    ("embed", {**EMBED, "input": ["a"] * 2049}, 400, "2048 is the limit"),
    ("embed", {**EMBED, "dimensions": 65}, 400, "64 dimensions"),
    ("embed", {**EMBED, "dimensions": 0}, 400, "at least 1"),
    ("embed", {**EMBED, "truncate": "yes"}, 400, "expected true or false"),
    ("embed", {**EMBED, "foo": 1}, 400, "Unrecognized request argument supplied: foo"),
    ("embed", {**EMBED, "model": "other"}, 404, "does not exist here"),
    ("embeddings", {"prompt": "x"}, 400, "Missing required parameter: 'model'"),
    ("embeddings", {"model": "other", "prompt": "x"}, 404, "does not exist here"),
    ("embeddings", {"model": "tiny-embed", "prompt": "x", "input": "x"}, 400, "input"),
    ("embeddings", {"model": "tiny-embed", "prompt": 5}, 400, "expected a string"),
    ("chat", {**CHAT, "model": "tiny-embed"}, 400, "not made for chat"),
]


@pytest.mark.parametrize(("path", "body", "status", "words"), ROWS)
def test_what_is_refused(chat: Running, path: str, body: Any, status: int, words: str) -> None:
    check_refused(chat, path, body, status, words)


@pytest.mark.parametrize(("path", "body", "status", "words"), EMBED_ROWS)
def test_what_is_refused_of_embeddings(embed: Running, path: str, body: Any, status: int, words: str) -> None:
    check_refused(embed, path, body, status, words)


def check_refused(server: Running, path: str, body: Any, status: int, words: str) -> None:
    answer = httpx.post(f"{server.url}/api/{path}", json=body)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]
    assert answer.headers["x-request-id"]


def test_what_is_no_json(chat: Running) -> None:
    for content in (b"{", b"", b"\xff"):
        answer = httpx.post(f"{chat.url}/api/chat", content=content, headers={"content-type": "application/json"})
        assert answer.status_code == 400
        assert "JSON" in json.loads(answer.text)["error"]


@pytest.mark.parametrize("kind", ["application/x-www-form-urlencoded", "text/plain", ""])
def test_what_curl_sends_is_read_and_what_a_page_may_send_unasked_is_not(chat: Running, kind: str) -> None:
    """Ollama's own pages ask by `curl -d` without a type. A form of any web page would look the same, but for its origin."""
    content = json.dumps({**CHAT, "stream": False, "options": {"num_predict": 1}})
    headers = {"content-type": kind} if kind else {}
    assert httpx.post(f"{chat.url}/api/chat", content=content, headers=headers).status_code == 200
    refused = httpx.post(f"{chat.url}/api/chat", content=content, headers={**headers, "origin": "http://elsewhere.example"})
    assert (refused.status_code, "content-type: application/json" in refused.json()["error"]) == (400, True)
