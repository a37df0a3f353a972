"""Leader election by a Lease, as client-go does it: https://kubernetes.io/docs/concepts/architecture/leases/

Clocks of different machines are never compared: a candidate takes over when it has not seen the lease change for as long as the
lease lasts. The leader stops believing in itself earlier than that, so two never lead at once.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from modelyard.kube.client import ApiFailure, KubeClient, Object, Resource

log = logging.getLogger(__name__)

LEASES = Resource("coordination.k8s.io/v1", "leases")


class LeaderLease:
    """Holds, or waits for, one Lease while `run` runs.

    All times are in seconds: a lease lasts ``duration``, is renewed every ``renew``, and a leader that could not renew for
    ``deadline`` steps down. ``on_change`` is called in the event loop with the new value of `is_leader`.
    """

    def __init__(
        self,
        client: KubeClient,
        namespace: str,
        name: str,
        identity: str,
        *,
        duration: float = 15.0,
        deadline: float = 10.0,
        renew: float = 5.0,
        on_change: Callable[[bool], None] | None = None,
    ):
        self.identity = identity
        self.last_contact = 0.0  # time.monotonic() of the API server's last answer
        self._client = client
        self._path, self._collection = LEASES.path(namespace, name), LEASES.path(namespace)
        self._name = name
        self._duration, self._deadline, self._renew = duration, deadline, renew
        self._on_change = on_change
        self._leading_until = 0.0
        self._announced = False
        self._seen: tuple[str, float] = ("", 0.0)  # the lease's last version and when this process first saw it

    @property
    def is_leader(self) -> bool:
        """Whether this process may write now. False as soon as the deadline passes, even if nothing else runs."""
        return time.monotonic() < self._leading_until

    async def run(self) -> None:
        """Takes part in the election until cancelled; then gives the lease back, so that a successor need not wait."""
        try:
            while True:
                await self._turn()
                await asyncio.sleep(self._pause())
        finally:
            await self._release()

    def _pause(self) -> float:
        """Returns the seconds until the next turn: the leader's next renewal, or its deadline; a candidate looks more often."""
        if not self.is_leader:
            return min(self._renew, self._duration / 5)
        return min(self._renew, max(0.05, self._leading_until - time.monotonic()))

    async def _turn(self) -> None:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._renew):
                if await self._hold():
                    self._leading_until = started + self._deadline
            self.last_contact = time.monotonic()
        except (ApiFailure, TimeoutError) as failure:
            log.warning("lease %s: %s", self._name, str(failure) or "no answer in time")
        self._announce()

    def _announce(self) -> None:
        if self.is_leader == self._announced:
            return
        self._announced = self.is_leader
        log.info("%s the leader", "became" if self._announced else "no longer", extra={"identity": self.identity})
        if self._on_change is not None:
            self._on_change(self._announced)

    async def _hold(self) -> bool:
        """Creates, renews or takes over the lease; returns whether this process holds it now."""
        try:
            lease = await self._client.get(self._path)
        except ApiFailure as failure:
            if not failure.not_found:
                raise
            return await self._write(None)
        holder = lease["spec"].get("holderIdentity")
        if holder and holder != self.identity and not self._expired(lease):
            self._leading_until = 0.0
            return False
        return await self._write(lease)

    def _expired(self, lease: Object) -> bool:
        """Returns whether the lease did not change for as long as it lasts, by this process's clock."""
        version = lease["metadata"]["resourceVersion"]
        if version != self._seen[0]:
            self._seen = (version, time.monotonic())
        lasts: float = lease["spec"].get("leaseDurationSeconds", self._duration)
        return time.monotonic() - self._seen[1] > lasts

    async def _write(self, lease: Object | None) -> bool:
        """Writes this process's name into the lease; returns False when somebody was faster."""
        try:
            if lease is None:
                body = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": self._name}, "spec": self._spec({})}
                await self._client.create(self._collection, body)
            else:
                await self._client.replace(self._path, {**lease, "spec": self._spec(lease["spec"])})
        except ApiFailure as failure:
            if failure.conflict:
                return False
            raise
        return True

    def _spec(self, before: Object) -> Object:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        mine = before.get("holderIdentity") == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": max(1, round(self._duration)),
            "acquireTime": before.get("acquireTime", now) if mine else now,
            "renewTime": now,
            "leaseTransitions": before.get("leaseTransitions", 0) + (0 if mine else 1),
        }

    async def _release(self) -> None:
        """Empties the holder, if it is this process; failing to is only slower for the successor."""
        was_leader, self._leading_until = self.is_leader, 0.0
        if not was_leader:
            return
        try:
            async with asyncio.timeout(self._renew):
                lease = await self._client.get(self._path)
                if lease["spec"].get("holderIdentity") == self.identity:
                    await self._client.replace(
                        self._path, {**lease, "spec": {**lease["spec"], "holderIdentity": "", "leaseDurationSeconds": 1}}
                    )
        except (ApiFailure, TimeoutError) as failure:
            log.warning("lease %s was not given back: %s", self._name, str(failure) or "no answer in time")
        self._announce()
