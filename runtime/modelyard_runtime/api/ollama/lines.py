"""Answers as lines of JSON: a response that sends what an iterator yields, as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import orjson
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from modelyard_runtime.api.errors import error_body, to_api_error

CONTENT_TYPE = b"application/x-ndjson"


def line(value: Any) -> bytes:
    """Returns a value as one line."""
    return orjson.dumps(value) + b"\n"


def now() -> str:
    """Returns the time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class LineStream(Response):
    """Sends the iterator's lines; an error on the way is the last line. Always closes the iterator."""

    def __init__(self, lines: AsyncIterator[bytes]):
        super().__init__()
        self._lines = lines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the response."""
        headers = [(b"content-type", CONTENT_TYPE), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        last = b""
        async with aclosing(self._lines) as lines:  # type: ignore[type-var]
            try:
                async for chunk in lines:
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            except Exception as error:  # noqa: BLE001 - the status line is gone: the stream is the one place left to say it
                last = line(error_body(to_api_error(error), scope["path"]))
        await send({"type": "http.response.body", "body": last})
