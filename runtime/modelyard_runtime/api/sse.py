"""Server-sent events: a response that sends what an iterator yields, as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelyard_runtime.api.errors import to_api_error

CONTENT_TYPE = b"text/event-stream; charset=utf-8"
DONE = b"data: [DONE]\n\n"


def event(value: Any) -> bytes:
    """Returns a value as one event."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named_event(value: dict[str, Any]) -> bytes:
    """Returns a value as an event of its own ``type``."""
    return b"event: " + str(value["type"]).encode() + b"\n" + event(value)


class EventStream(Response):
    """Sends the iterator's events, then ``last``; an error on the way is the last event instead. Always closes the iterator.

    The response is cancelled when the client leaves (see `middleware`), which closes the iterator too.
    """

    def __init__(self, events: AsyncIterator[bytes], last: bytes = DONE):
        super().__init__()
        self._events = events
        self._last = last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the response."""
        headers = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = self._last
        async with aclosing(self._events) as events:  # type: ignore[type-var]
            try:
                async for chunk in events:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as error:  # noqa: BLE001 - the status line is gone: the stream is the one place left to say it
                last = event(to_api_error(error).to_dict())
        await send({"type": "http.response.body", "body": last})
