"""What a request that is refused gets, and how tests of bad input name their rows."""

from typing import Any

import httpx

HELLO = [{"role": "user", "content": "Hello"}]
CHAT = {"model": "tiny-chat", "messages": HELLO, "max_tokens": 2}

#: OpenAI's type of an error by its status.
TYPES = {400: "invalid_request_error", 403: "permission_error", 404: "invalid_request_error", 405: "invalid_request_error"}
TYPES |= {409: "invalid_request_error"}


def assert_serves(chat) -> None:
    assert httpx.post(f"{chat.url}/v1/chat/completions", json=CHAT).status_code == 200


def assert_error(response: httpx.Response, status: int, kind: str, param: str | None, code: str | None, words: str) -> None:  # noqa: PLR0917
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["type"] == kind
    assert error["param"] == param
    assert code is None or error["code"] == code
    assert words in error["message"]


def identify(value: Any) -> str:
    return str(value)[:60] if isinstance(value, dict | list | bytes) else ""
