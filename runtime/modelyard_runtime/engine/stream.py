"""The tokens of one request, as the event loop reads them."""

import asyncio
from collections.abc import AsyncIterator, Callable

from modelyard_runtime.engine.base import EngineFailed, TokenEvent


class SequenceStream:
    """An asynchronous iterator over a request's tokens. Closing it before its end cancels the request within one step.

    At most as many events wait here as the request may generate tokens.
    """

    def __init__(self, cancel: Callable[[], None]):
        self._cancel = cancel
        self._events: asyncio.Queue[TokenEvent | EngineFailed] = asyncio.Queue()
        self._ended = False

    def __aiter__(self) -> AsyncIterator[TokenEvent]:
        return self

    async def __anext__(self) -> TokenEvent:
        if self._ended:
            raise StopAsyncIteration
        event = await self._events.get()
        if isinstance(event, EngineFailed):
            self._ended = True
            raise event
        self._ended = event.finish_reason is not None
        return event

    def put(self, event: TokenEvent | EngineFailed) -> None:
        """Adds what the engine says; called on the event loop."""
        self._events.put_nowait(event)

    async def aclose(self) -> None:
        """Cancels the request unless it has ended. Safe to call twice."""
        if not self._ended:
            self._ended = True
            self._cancel()
