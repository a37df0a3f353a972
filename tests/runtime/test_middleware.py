"""What every request gets, whatever ends it."""

import asyncio
from typing import Any

import orjson
from modelyard_runtime.api.middleware import AccessLog


async def test_a_request_that_the_servers_end_cuts_off_is_told_so_in_the_usual_shape() -> None:
    reading, sent = asyncio.Event(), []

    async def application(_scope: Any, _receive: Any, _send: Any) -> None:
        reading.set()
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        raise AssertionError("the application does not ask")

    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "headers": []}
    request = asyncio.create_task(AccessLog(application, closing=lambda: True)(scope, receive, send))
    await reading.wait()
    request.cancel()
    await request
    start, body = sent
    assert start["status"] == 503
    assert (b"retry-after", b"1") in [(name.lower(), value) for name, value in start["headers"]]
    assert orjson.loads(body["body"])["error"]["code"] == "draining"
