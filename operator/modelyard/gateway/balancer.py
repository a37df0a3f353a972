"""Which replica gets a request: of two taken at random the one with fewer requests in flight, leaving out those that just failed.

Two random choices are nearly as even as a look at all of them, and several gateways that know nothing of each other do not herd:
Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial
from types import TracebackType

from modelyard.gateway.admission import HeldBytes, WaitingRoom
from modelyard.gateway.demand import Changes
from modelyard.gateway.directory import Directory
from modelyard.gateway.errors import UpstreamFailed
from modelyard.gateway.exchange import Exchange
from modelyard.gateway.metrics import ModelStats
from modelyard.gateway.settings import GatewaySettings
from modelyard.gateway.types import Endpoint, ModelRecord
from modelyard.gateway.upstream import Pool

_LONGEST_EJECTION = 10.0


class Target:
    """A replica: its requests in flight, its connections, and how it behaved lately.

    As a context, which any number of requests may be in, it counts a request on the replica and always counts it off again.
    """

    __slots__ = ("_group", "ejected", "endpoint", "failures", "in_flight", "pool")

    def __init__(self, group: Group, endpoint: Endpoint, pool: Pool):
        self._group = group
        self.endpoint = endpoint
        self.pool = pool
        self.in_flight = 0
        self.failures = 0
        self.ejected = False

    def __enter__(self) -> None:
        self.in_flight += 1
        self._group.in_flight += 1
        self._group.changes.touch()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.in_flight -= 1
        self._group.in_flight -= 1
        self._group.changes.touch()


class Group:
    """The replicas of one model, and the requests that wait for one."""

    def __init__(self, key: str, model: bytes, room: WaitingRoom, changes: Changes, connect_timeout: float):
        self.key = key
        self._model = model
        self.room = room
        self.stats = ModelStats()
        self.in_flight = 0
        self.targets: list[Target] = []
        self.changes = changes
        self._connect_timeout = connect_timeout

    async def wait(self, exchange: Exchange) -> Target:
        """Waits until there is a replica for a request, and returns it. Raises Unavailable or ModelNotFound."""
        return await self.room.hold(exchange, self.pick, lambda: bool(self.targets))

    def pick(self) -> Target | None:
        """Returns the replica for the next request, or None when there is none to take."""
        targets = self.targets
        count = len(targets)
        if count == 0:
            return None
        first = second = targets[0]
        if count > 1:
            index = int(random.random() * count)  # noqa: S311  (spreads load, keeps no secret)
            step = 1 + int(random.random() * (count - 1))  # noqa: S311
            first, second = targets[index], targets[(index + step) % count]
        if first.ejected or second.ejected:
            usable = [target for target in targets if not target.ejected]
            return min(usable, key=lambda target: target.in_flight, default=None)
        return second if second.in_flight < first.in_flight else first

    def set_endpoints(self, endpoints: frozenset[Endpoint]) -> None:
        """Takes new replicas in and lets gone ones finish: their streams go on, no new request reaches them."""
        known = {target.endpoint: target for target in self.targets}
        for endpoint in known.keys() - endpoints:
            known[endpoint].pool.shut()
        self.targets = [known.get(endpoint) or self._target(endpoint) for endpoint in sorted(endpoints)]

    def eject(self, target: Target, failure: UpstreamFailed) -> None:
        """Leaves a replica out for a while that doubles with each failure in a row."""
        seconds = min(_LONGEST_EJECTION, failure.ejection * 2**target.failures)
        target.failures += 1
        target.pool.drop_idle(float("inf"))
        if not target.ejected:
            target.ejected = True
            asyncio.get_running_loop().call_later(seconds, self._readmit, target)

    def _readmit(self, target: Target) -> None:
        target.ejected = False
        self.room.wake()

    def _target(self, endpoint: Endpoint) -> Target:
        return Target(self, endpoint, Pool(endpoint, self._model, self._connect_timeout))


class Balancer:
    """The groups of all models, kept in step with the directory."""

    def __init__(self, directory: Directory, settings: GatewaySettings, changes: Changes):
        self.groups: dict[str, Group] = {}
        self.held = HeldBytes(settings.max_held_bytes)
        self._directory = directory
        self._changes = changes
        self._connect_timeout = settings.connect_timeout.total_seconds()
        for record in directory.models():
            self._follow(record.key)
        directory.subscribe(self._follow)

    def drop_idle(self, before: float) -> None:
        """Closes upstream connections that have been idle since before a time on the monotonic clock."""
        for group in self.groups.values():
            for target in group.targets:
                target.pool.drop_idle(before)

    def shut(self) -> None:
        """Closes every idle upstream connection."""
        for group in self.groups.values():
            group.set_endpoints(frozenset())

    def _follow(self, key: str) -> None:
        record = self._directory.record(key)
        group = self.groups.get(key)
        if record is None:
            if group is not None:
                del self.groups[key]
                group.set_endpoints(frozenset())
                group.room.wake()
            return
        if group is None:
            group = self.groups[key] = self._new(record)
        group.set_endpoints(self._directory.endpoints(key))
        group.room.wake()

    def _new(self, record: ModelRecord) -> Group:
        current: Callable[[], ModelRecord | None] = partial(self._directory.record, record.key)
        room = WaitingRoom(record.key, current, self.held, self._changes.touch)
        return Group(record.key, record.name.encode(), room, self._changes, self._connect_timeout)
