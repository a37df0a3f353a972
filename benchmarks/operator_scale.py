"""How the operator scales: many InferenceModels on the cluster that KUBECONFIG names, ideally one of control plane alone with fake nodes.

Measures the time until every model's children are in place and until every status is told, the operator's peak memory, its idle
CPU, its API calls while idle, and how long a fresh process takes until it serves a new model beside all the others.

(Not named operator.py: a script's folder comes first among the import paths, and that name is the standard library's.)
"""

import argparse
import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import yaml
from modelyard.api.names import API_VERSION, KIND
from modelyard.controller.projections import CHILDREN
from modelyard.kube.apply import resource_path
from modelyard.kube.client import ApiFailure, KubeClient, Object, Resource, Unreachable

NAMESPACE = "modelyard-bench"
CRDS = Resource("apiextensions.k8s.io/v1", "customresourcedefinitions")
NAMESPACES = Resource("v1", "namespaces")
MODELS = resource_path(API_VERSION, KIND, NAMESPACE)
LIMIT_SECONDS = 300.0


@dataclass
class Process:
    """An operator that manages the benchmark's namespace alone."""

    popen: subprocess.Popen[bytes]
    port: int

    @classmethod
    def start(cls) -> "Process":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = {"namespace": NAMESPACE, "watch-namespace": NAMESPACE, "host": "127.0.0.1", "port": port, "log-level": "warning"}
        command = [sys.executable, "-m", "modelyard.controller.main", *(f"--{flag}={value}" for flag, value in flags.items())]
        return cls(subprocess.Popen(command), port)

    def stop(self) -> None:
        self.popen.send_signal(signal.SIGTERM)
        self.popen.wait(30)

    @property
    def peak_mb(self) -> float:
        lines = Path(f"/proc/{self.popen.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024

    @property
    def cpu_seconds(self) -> float:
        user, system = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    async def leads(self) -> bool:
        """Returns whether it has its records and the Lease; raises RuntimeError when it ended."""
        if (code := self.popen.poll()) is not None:
            raise RuntimeError(f"the operator ended with exit code {code}")
        try:
            return "modelyard_operator_leader 1.0" in await self.metrics()
        except aiohttp.ClientConnectionError:
            return False

    async def metrics(self) -> str:
        async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{self.port}/metrics") as response:
            return await response.text()

    async def calls(self) -> float:
        """Returns the requests sent to the API server so far."""
        lines = (await self.metrics()).splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith("modelyard_kube_api_requests_total{"))


def model(name: str, min_replicas: int) -> Object:
    """Returns a small model."""
    spec = {
        "model": {"source": "builtin://tiny-chat"},
        "resources": {"cpu": "10m", "memory": "64Mi"},
        "scaling": {"minReplicas": min_replicas, "maxReplicas": 2},
    }
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


async def until(what: str, met: Callable[[], Awaitable[bool]]) -> float:
    """Returns the seconds until a condition is met; raises TimeoutError, naming it."""
    began = time.monotonic()
    while not await calmly(met):
        if time.monotonic() - began > LIMIT_SECONDS:
            raise TimeoutError(f"not reached within {LIMIT_SECONDS:.0f} s: {what}")
        await asyncio.sleep(0.5)
    return time.monotonic() - began


async def calmly(met: Callable[[], Awaitable[bool]]) -> bool:
    """Asks a condition; a server too busy to answer has not met it."""
    try:
        return await met()
    except Unreachable:
        return False


async def count(client: KubeClient, path: str) -> int:
    """Returns the number of objects in a collection, which the API server tells with the first of them."""
    page = await client.request("GET", path, params={"limit": 1})
    return len(page["items"]) + page["metadata"].get("remainingItemCount", 0)


async def prepare(client: KubeClient) -> None:
    """Makes the namespace, and the CRDs where they are missing."""
    for file in sorted(Path(__file__).parent.parent.joinpath("crds").glob("*.yaml")):
        await create(client, CRDS.path(), yaml.safe_load(file.read_text()))
    await until("an earlier run's namespace is gone", lambda: gone(client, NAMESPACES.path(name=NAMESPACE)))
    await client.create(NAMESPACES.path(), {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    await until("the models' kind is served", lambda: is_count(client, MODELS, 0))


async def gone(client: KubeClient, path: str) -> bool:
    try:
        await client.get(path)
    except ApiFailure as failure:
        return failure.not_found
    return False


async def is_count(client: KubeClient, path: str, wanted: int) -> bool:
    try:
        return await count(client, path) == wanted
    except ApiFailure as failure:
        if failure.not_found or failure.status == 429:  # the CRD's storage is not up yet
            return False
        raise


async def create(client: KubeClient, path: str, body: Object) -> None:
    try:
        await client.create(path, body)
    except ApiFailure as failure:
        if not failure.conflict:
            raise


async def create_models(client: KubeClient, number: int, min_replicas: int) -> float:
    """Creates the models, 16 at once; returns the seconds it took."""
    slots, began = asyncio.Semaphore(16), time.monotonic()

    async def one(index: int) -> None:
        async with slots:
            await client.create(MODELS, model(f"model-{index:05d}", min_replicas))

    await asyncio.gather(*(one(index) for index in range(number)))
    return time.monotonic() - began


async def in_place(client: KubeClient, number: int) -> bool:
    """Returns whether every model has its five children. A namespace has a ServiceAccount of its own."""
    paths = {kind: resource.path(NAMESPACE) for kind, resource in CHILDREN.items()}
    counts = {kind: await count(client, path) for kind, path in paths.items()}
    return all(found >= number + (kind == "ServiceAccount") for kind, found in counts.items())


async def told(client: KubeClient) -> bool:
    """Returns whether every model is Ready. Lists are costly, so it is asked seldom."""
    await asyncio.sleep(2)
    models = await client.list(MODELS)
    ready = [c["status"] for m in models for c in m.get("status", {}).get("conditions", ()) if c["type"] == "Ready"]
    return ready.count("True") == len(models)


async def idle(operator: Process, seconds: float) -> tuple[float, float]:
    """Returns the share of a core in percent and the API calls per second of an operator with nothing to do."""
    cpu, calls, began = operator.cpu_seconds, await operator.calls(), time.monotonic()
    await asyncio.sleep(seconds)
    took = time.monotonic() - began
    return (operator.cpu_seconds - cpu) / took * 100, (await operator.calls() - calls) / took


async def restart(client: KubeClient, number: int) -> float:
    """Returns the seconds from the start of a fresh process until a model that was created meanwhile has its Deployment."""
    await client.create(MODELS, model("newcomer", 0))
    operator = Process.start()
    try:
        return await until("the newcomer has its children", lambda: in_place(client, number + 1))
    finally:
        operator.stop()


async def clean(client: KubeClient) -> None:
    """Deletes the namespace with all that is in it."""
    await client.delete(NAMESPACES.path(name=NAMESPACE))


async def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Runs the whole measurement and returns the figures by name."""
    async with await KubeClient.connect() as client:
        await prepare(client)
        operator = Process.start()
        try:
            await until("the operator leads", operator.leads)
            began = time.monotonic()
            created = await create_models(client, arguments.models, arguments.min_replicas)
            await until("all children are in place", lambda: in_place(client, arguments.models))
            children = time.monotonic() - began
            await until("all statuses are told", lambda: told(client))
            statuses = time.monotonic() - began
            busy = operator.cpu_seconds
            await asyncio.sleep(10)  # the last coalesced events
            percent, calls = await idle(operator, arguments.idle_seconds)
            peak = operator.peak_mb
        finally:
            operator.stop()
        again = await restart(client, arguments.models)
        await clean(client)
    return {
        "models": arguments.models,
        "models_created_seconds": created,
        "children_in_place_seconds": children,
        "all_ready_seconds": statuses,
        "operator_cpu_seconds": busy,
        "peak_rss_mb": peak,
        "idle_cpu_percent": percent,
        "idle_calls_per_second": calls,
        "restart_seconds": again,
    }


def main() -> None:
    """Prints a table and, last, one line of figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=1000, help="InferenceModels")
    parser.add_argument("--min-replicas", type=int, default=0, help="replicas of each; 1 makes the cluster run as many pods besides")
    parser.add_argument("--idle-seconds", type=float, default=30.0, help="seconds that idle CPU is measured for")
    figures = asyncio.run(measure(parser.parse_args()))
    for name, value in figures.items():
        print(f"{name:28} {value:10.1f}")
    print(
        " ".join(
            f"{name} {figures[name]:.1f}" for name in ("children_in_place_seconds", "peak_rss_mb", "idle_cpu_percent", "restart_seconds")
        )
    )


if __name__ == "__main__":
    main()
