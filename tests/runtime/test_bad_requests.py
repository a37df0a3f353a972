"""Requests that are no JSON, no HTTP, too large, or for what is not there: the server is unharmed and serves the next request."""

import json
import socket

import httpx
import pytest

from .refusals import CHAT, assert_error, assert_serves, identify

RAW_ROWS: list[tuple[bytes, str, str]] = [
    (b"", "invalid_json", "no body"),
    (b"{", "invalid_json", "not valid JSON"),
    (b"{'model': 'x'}", "invalid_json", "not valid JSON"),
    (b'{"model": "tiny-chat", "temperature": NaN}', "invalid_json", "not valid JSON"),
    (b'{"model": "tiny-chat", "temperature": Infinity}', "invalid_json", "not valid JSON"),
    (b'{"model": "tiny-chat",}', "invalid_json", "not valid JSON"),
    (b"\xff\xfe\x00", "invalid_json", "not valid JSON"),
    (b"[" * 100_000, "invalid_json", "not valid JSON"),
    (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, "invalid_json", "not valid JSON"),
    (b'{"model": "tiny-chat", "messages": [{"role": "user", "content": "\\ud800"}]}', "invalid_json", "not valid JSON"),
    (
        b'{"model": "tiny-chat", "chat_template_kwargs": {"thinking": %s}}' % (b"[" * 300 + b"]" * 300),
        "invalid_json",
        "more than 128 levels",
    ),
]


@pytest.mark.parametrize(("body", "code", "words"), RAW_ROWS, ids=identify)
def test_bodies_that_are_no_json(chat, body, code, words):
    response = httpx.post(f"{chat.url}/v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert_error(response, 400, "invalid_request_error", None, code, words)
    assert_serves(chat)


def test_a_body_that_does_not_say_json(chat):
    response = httpx.post(f"{chat.url}/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": "text/plain"})
    assert_error(response, 400, "invalid_request_error", None, "invalid_type", "content-type: application/json")


def test_an_unknown_model(chat):
    response = httpx.post(f"{chat.url}/v1/chat/completions", json={**CHAT, "model": "gpt-9"})
    assert_error(response, 404, "invalid_request_error", "model", "model_not_found", "This server has 'tiny-chat'")


def test_a_model_of_another_capability(chat, embed):
    response = httpx.post(f"{chat.url}/v1/embeddings", json={"model": "tiny-chat", "input": "x"})
    assert_error(response, 400, "invalid_request_error", "model", "unsupported_capability", "/v1/chat/completions")
    response = httpx.post(f"{embed.url}/v1/chat/completions", json={**CHAT, "model": "tiny-embed"})
    assert_error(response, 400, "invalid_request_error", "model", "unsupported_capability", "/v1/embeddings")


@pytest.mark.parametrize(
    "path", ["/v1", "/v1/chat", "/v1/chat/completions/", "/v2/models", "/v1/%00", "/v1/../v1/x", "/metrics", "/progress", "/docs"]
)
def test_an_unknown_path(chat, path):
    assert_error(httpx.post(f"{chat.url}{path}", json=CHAT), 404, "invalid_request_error", None, "unknown_url", "Unknown request URL")


def test_an_unknown_path_is_told_by_the_port_s_own(chat):
    assert "/openapi.json" in httpx.get(f"{chat.url}/v1/chats").json()["error"]["message"]
    assert "private port" in httpx.get(f"{chat.url}/admin/models").json()["error"]["message"]
    wrong = httpx.get(f"{chat.private_url}/v1/models").json()["error"]["message"]
    assert "/metrics, /progress, and /admin/models" in wrong


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/chat/completions"), ("DELETE", "/v1/embeddings"), ("POST", "/v1/models"), ("PUT", "/health")]
)
def test_a_wrong_method(chat, method, path):
    response = httpx.request(method, f"{chat.url}{path}")
    assert_error(response, 405, "invalid_request_error", None, "method_not_allowed", "Use ")
    assert f"Use {response.headers['allow']}." in response.json()["error"]["message"]


def test_a_body_of_100_mb_is_refused_and_nothing_of_it_kept(chat):
    response = httpx.post(
        f"{chat.url}/v1/chat/completions", content=b"x" * 100_000_000, headers={"content-type": "application/json"}, timeout=60
    )
    assert_error(response, 413, "invalid_request_error", None, "request_too_large", "16777216 bytes")
    assert_serves(chat)


def test_a_chunked_body_is_bounded_too(chat):
    chunks = (b"x" * 1_000_000 for _ in range(20))
    response = httpx.post(f"{chat.url}/v1/chat/completions", content=chunks, headers={"content-type": "application/json"}, timeout=60)
    assert_error(response, 413, "invalid_request_error", None, "request_too_large", "Send less")


def test_a_client_that_asks_first_is_refused_before_it_sends(chat):
    answer = raw(chat, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999\r\nexpect: 100-continue\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_request_that_stops_half_way(chat, start):
    server = start(body_timeout="300ms")
    answer = raw(server, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request_timeout" in answer
    assert_serves(server)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"not http at all\r\n\r\n", b"400"),
        (b"GET /health HTTP/9.9\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\ncontent-length: 2\r\n\r\n{}", b"400"),
        (b"GET /health HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n", b"400"),
        (b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", b"400"),
        (b"GET /health HTTP/1.1\r\nx: " + b"a" * 200_000, b"431"),
    ],
    ids=["garbage", "version", "length", "no host", "no host before a body", "two hosts", "chunk", "headers"],
)
def test_what_is_no_http(chat, request_, status):
    answer = raw(chat, request_)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b'"error"' in answer
    assert_serves(chat)


def test_a_client_of_http_1_0_needs_no_host(chat):
    assert raw(chat, b"GET /health HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")


def test_trailers_are_no_headers_and_not_kept(start):
    server = start(api_key="secret")
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    body = json.dumps(CHAT).encode()
    chunked = b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n%x\r\n%b\r\n0\r\n" % (len(body), body)
    trailer = b"authorization: Bearer secret\r\n"
    assert raw(server, head + chunked + trailer + b"\r\n").startswith(b"HTTP/1.1 401")
    assert raw(server, head + trailer + chunked + b"x: y\r\n" * 100_000 + b"\r\n").startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("wish", ["h2c", "websocket"])
def test_a_wish_for_another_protocol_is_ignored(chat, wish):
    body = json.dumps(CHAT).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: Upgrade, HTTP2-Settings\r\nupgrade: {wish}\r\n"
        f"http2-settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    last = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answers = raw(chat, head + body + head + body + last)
    assert answers.count(b"HTTP/1.1 200 OK") == answers.count(b"HTTP/1.1 ") == 3


def test_no_proxy(chat):
    assert raw(chat, b"CONNECT x:443 HTTP/1.1\r\nhost: x:443\r\n\r\n").startswith(b"HTTP/1.1 400")


def raw(server, request: bytes) -> bytes:
    """Sends bytes and returns the answer, read to the connection's end."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
        return answer
