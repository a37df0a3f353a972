"""One line of JSON per request, written in batches away from the event loop.

Standard output may block when nobody reads it. Lines then pile up to a bound, after which they are dropped and counted: the log gives
way, never the requests. No header, no body and no query string is ever logged, as each may carry a secret.
"""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import orjson

from modelyard.api.names import authority
from modelyard.gateway.exchange import Exchange
from modelyard.gateway.types import Endpoint
from modelyard.process.logs import timestamp

_INTERVAL = 0.2
_MOST_LINES = 100_000
_LONGEST_PATH = 256
_FRACTION_AND_ZONE = len(".000+00:00")
_TEMPLATE = (
    b'{"time":"%b.%03d+00:00","logger":"access","requestId":"%b","method":"%b","path":%b,"model":%b,"endpoint":%b,'
    b'"status":%d,"bytes":%d,"seconds":%.6f,"firstByteSeconds":%.6f'
)


class AccessLog:
    """Writes to a file descriptor."""

    def __init__(self, descriptor: int = 1, *, enabled: bool = True):
        self.lost = 0
        self._descriptor = descriptor
        self._enabled = enabled
        self._lines: list[bytes] = []
        self._writer = ThreadPoolExecutor(1, "access-log")
        self._writing: asyncio.Future[None] | None = None

    def note(self, exchange: Exchange, seconds: float) -> None:
        """Adds a request that is over; ``seconds`` is what it took."""
        if not self._enabled:
            return
        if len(self._lines) >= _MOST_LINES:
            self.lost += 1
            return
        self._lines.append(_line(exchange, seconds))
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write_soon())

    async def close(self) -> None:
        """Writes what is left."""
        if self._writing is not None:
            await self._writing
        self._writer.shutdown(wait=False)

    async def _write_soon(self) -> None:
        loop = asyncio.get_running_loop()
        while self._lines:
            await asyncio.sleep(_INTERVAL)
            batch, self._lines = self._lines, []
            await loop.run_in_executor(self._writer, _write_all, self._descriptor, batch)
        self._writing = None


def _write_all(descriptor: int, lines: list[bytes]) -> None:
    data = memoryview(b"".join(lines))
    while data:
        data = data[os.write(descriptor, data) :]


def _line(exchange: Exchange, seconds: float) -> bytes:
    """Returns the line. Written by a template, at a third of a JSON encoder's time; what a client chose is encoded all the same."""
    request, record, endpoint = exchange.request, exchange.record, exchange.endpoint
    second, fraction = divmod(time.time(), 1)
    line = _TEMPLATE % (
        _timestamp(int(second)),
        int(fraction * 1000),
        request.id,
        request.method,
        _encoded_path(request.target),
        b"null" if record is None else b'"%b"' % record.key.encode(),
        b"null" if endpoint is None else _told(endpoint),
        exchange.status,
        exchange.bytes_sent,
        seconds,
        exchange.first_byte_at - request.received_at if exchange.first_byte_at else seconds,
    )
    if exchange.held_seconds:
        line += b',"heldSeconds":%.3f' % exchange.held_seconds
    if exchange.error:
        line += b',"error":' + orjson.dumps(exchange.error.message)
    return line + b"}\n"


@lru_cache(4096)
def _told(endpoint: Endpoint) -> bytes:
    return b'"%b"' % authority(*endpoint).encode()


@lru_cache(2)
def _timestamp(second: int) -> bytes:
    """Returns a second since the epoch as other logs of ours have it, without its fraction and zone."""
    return timestamp(second)[:-_FRACTION_AND_ZONE].encode()


@lru_cache(1024)
def _encoded_path(target: bytes) -> bytes:
    return orjson.dumps(target.partition(b"?")[0][:_LONGEST_PATH].decode("ascii", "replace"))
