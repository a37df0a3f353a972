"""Leader election against an API server that answers late or not at all; the ordinary hand-over is in e2e/test_api_server.py."""

import asyncio
from typing import Any

from modelyard.kube.client import KubeClient
from modelyard.kube.lease import LeaderLease


def lease_of(holder: str) -> dict[str, Any]:
    return {"spec": {"holderIdentity": holder, "leaseDurationSeconds": 1, "leaseTransitions": 2}}


def candidate(client: KubeClient, said: asyncio.Queue[bool]) -> LeaderLease:
    return LeaderLease(client, "ns", "leader", "me", duration=1, deadline=0.6, renew=0.2, on_change=said.put_nowait)


async def test_a_silent_holder_is_replaced_after_its_lease(api: Any, client: KubeClient) -> None:
    await api.put("leader", **lease_of("other"))
    said: asyncio.Queue[bool] = asyncio.Queue()
    lease = candidate(client, said)
    started = asyncio.get_running_loop().time()
    task = asyncio.create_task(lease.run())
    assert await asyncio.wait_for(said.get(), 10)
    assert asyncio.get_running_loop().time() - started >= 1
    assert lease.is_leader
    task.cancel()
    await asyncio.wait({task})
    assert not lease.is_leader


async def test_a_leader_that_cannot_renew_steps_down(api: Any, client: KubeClient) -> None:
    await api.put("leader", **lease_of(""))
    said: asyncio.Queue[bool] = asyncio.Queue()
    lease = candidate(client, said)
    task = asyncio.create_task(lease.run())
    assert await asyncio.wait_for(said.get(), 10)
    api.failures = [api.failure(500, "InternalError") for _ in range(1000)]
    assert not await asyncio.wait_for(said.get(), 10)
    api.failures = []
    assert await asyncio.wait_for(said.get(), 10)
    task.cancel()
    await asyncio.wait({task})
