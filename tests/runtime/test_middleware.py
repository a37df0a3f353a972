"""What every request gets, whatever ends it."""

import asyncio
from typing import Any

import httpx
import orjson
import pytest
from modelyard_runtime.api.middleware import AccessLog
from starlette.types import Send

from .conftest import Running


@pytest.mark.parametrize(
    ("path", "status"),
    [
        *(("/", 200), ("/v1/models", 200), ("/v1/models/tiny-chat", 200), ("/api/tags", 200), ("/version", 200), ("/ready", 200)),
        *(("/v1/models/nope", 404), ("/v1/nope", 404), ("/v1/chat/completions", 405)),
    ],
)
def test_head_is_answered_as_get_is_without_its_body(chat: Running, path: str, status: int) -> None:
    with httpx.Client(base_url=chat.url) as client:  # one connection: a body that came all the same would be in the next answer's way
        head, got = client.head(path), client.get(path)
    assert (head.status_code, got.status_code, head.content) == (status, status, b"")
    assert [head.headers.get(name) for name in ("content-type", "content-length", "allow")] == [
        got.headers.get(name) for name in ("content-type", "content-length", "allow")
    ]


async def begun(send: Send) -> asyncio.Task[None]:
    """Returns a request, which is being worked on for ever, of a server that is about to end."""
    reading = asyncio.Event()

    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        reading.set()
        await asyncio.Event().wait()

    async def receive() -> Any:
        raise AssertionError("the application does not ask")

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    request = asyncio.create_task(AccessLog(application, closing=lambda: True)(scope, receive, send))
    await reading.wait()
    return request


async def test_a_request_that_the_servers_end_cuts_off_is_told_so_in_the_usual_shape() -> None:
    sent = []

    async def send(message: Any) -> None:
        sent.append(message)

    request = await begun(send)
    request.cancel()
    await request
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in [(name.lower(), value) for name, value in start["headers"]]
    assert orjson.loads(body["body"])["error"]["code"] == "draining"


async def test_a_request_whose_client_does_not_read_that_ends_without_a_trace() -> None:
    told = asyncio.Event()

    async def send(_message: Any) -> None:
        told.set()
        await asyncio.Event().wait()

    request = await begun(send)
    request.cancel()
    await told.wait()
    request.cancel()
    await request
    assert not request.cancelled()
