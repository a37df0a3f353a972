"""Requests that wait for a replica: first come, first served, within bounds of number, bytes and time.

A waiting room has no loop of its own. Whatever may end a wait (an endpoint, the end of an ejection, a model that turns out unable to
start, or goes away) calls `wake`, and each waiting request then looks for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from modelyard.api.errors import ModelNotFound, Unavailable

if TYPE_CHECKING:
    from modelyard.gateway.exchange import Exchange
    from modelyard.gateway.types import ModelRecord

_RETRY_AFTER = 10

T = TypeVar("T")


@dataclass(slots=True)
class HeldBytes:
    """Bodies of held requests over all models, against their bound."""

    limit: int
    used: int = 0


@dataclass(slots=True, eq=False)
class _Ticket:
    since: float
    wake: asyncio.Future[None]


class WaitingRoom:
    """The held requests of one model. ``record`` returns the model as it is now, or None once it is gone."""

    def __init__(self, key: str, record: Callable[[], ModelRecord | None], held: HeldBytes, changed: Callable[[], None]):
        self._key = key
        self._record = record
        self._held = held
        self._changed = changed
        self._tickets: dict[_Ticket, None] = {}

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return len(self._tickets)

    def oldest_since(self) -> float | None:
        """Returns since when the first in line waits, on the monotonic clock."""
        return next((ticket.since for ticket in self._tickets), None)

    def wake(self) -> None:
        """Lets every waiting request look again, in the order of arrival."""
        for ticket in self._tickets:
            if not ticket.wake.done():
                ticket.wake.set_result(None)

    async def hold(self, exchange: Exchange, ready: Callable[[], T | None], can_start: Callable[[], bool]) -> T:
        """Waits until ``ready`` returns something, and returns that. Raises Unavailable or ModelNotFound.

        ``can_start`` says whether it is worth waiting although the model is marked as blocked.
        """
        self._admit(len(exchange.request.body), can_start)
        loop = asyncio.get_running_loop()
        ticket = _Ticket(monotonic(), loop.create_future())
        size = len(exchange.request.body)
        self._tickets[ticket] = None
        self._held.used += size
        self._changed()
        try:
            return await self._wait(ticket, exchange, ready, can_start)
        finally:
            self._held.used -= size
            del self._tickets[ticket]
            exchange.held_seconds += monotonic() - ticket.since
            self._changed()

    async def _wait(self, ticket: _Ticket, exchange: Exchange, ready: Callable[[], T | None], can_start: Callable[[], bool]) -> T:
        loop = asyncio.get_running_loop()
        keepalive_at = self._next_keepalive(exchange, ticket.since)
        while True:
            record = self._startable(can_start)
            give_up_at = ticket.since + record.max_wait
            await asyncio.wait((ticket.wake,), timeout=max(0.0, min(give_up_at, keepalive_at) - monotonic()))
            if ticket.wake.done():
                ticket.wake = loop.create_future()
            found = ready()
            if found is not None:
                return found
            now = monotonic()
            if now >= give_up_at:
                raise self._refusal(f"No replica of the model '{self._key}' became ready within {record.max_wait:g} s.")
            if now >= keepalive_at:
                exchange.keepalive()
                keepalive_at = self._next_keepalive(exchange, now)

    def _next_keepalive(self, exchange: Exchange, now: float) -> float:
        record = self._record()
        if record is None or record.keepalive <= 0 or exchange.wanted_stream is None:
            return float("inf")
        return now + record.keepalive

    def _admit(self, size: int, can_start: Callable[[], bool]) -> None:
        record = self._startable(can_start)
        if len(self._tickets) >= record.max_queue:
            waiting = f"{record.max_queue} requests wait for one already" if record.max_queue else "its coldStart.maxQueue is 0"
            raise self._refusal(f"The model '{self._key}' has no ready replica, and {waiting}. Retry later.")
        if self._held.used + size > self._held.limit:
            raise self._refusal(
                f"The model '{self._key}' has no ready replica, and waiting requests fill the gateway's memory. Retry later."
            )

    def _startable(self, can_start: Callable[[], bool]) -> ModelRecord:
        record = self._record()
        if record is None:
            raise ModelNotFound(f"The model '{self._key}' was deleted.", param="model")
        if record.blocked is not None and not can_start():
            raise Unavailable(f"The model '{self._key}' cannot start: {record.blocked}", code="model_unavailable")
        return record

    @staticmethod
    def _refusal(message: str) -> Unavailable:
        return Unavailable(message, code="no_ready_replica", retry_after=_RETRY_AFTER)
