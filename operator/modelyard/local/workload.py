"""What the Deployment controller does: as many pods of the newest template as planned, exchanged as its strategy says."""

import hashlib
import json
import secrets
from collections.abc import Callable, Sequence
from typing import NamedTuple

from modelyard.controller.types import Key, Manifest
from modelyard.gateway.types import Endpoint
from modelyard.local.pod import Host, Pod


class Replica(NamedTuple):
    """A pod as the exchange sees it."""

    name: str
    current: bool
    ready: bool
    stopping: bool
    created_at: float


class Change(NamedTuple):
    """Pods to start, by number, and to stop, by name."""

    start: int
    stop: tuple[str, ...]


def exchange(pods: Sequence[Replica], replicas: int, surge: int, unavailable: int) -> Change:
    """Returns the next step from the pods that are there to ``replicas`` current ones. Pure.

    At most ``replicas + surge`` pods run and at least ``replicas - unavailable`` are ready, as far as that holds already. Without
    a surge a pod that stops still counts, because its devices are not free yet.
    """
    staying = [pod for pod in pods if not pod.stopping]
    current = sorted((pod for pod in staying if pod.current), key=lambda pod: (not pod.ready, pod.created_at, pod.name))
    old = sorted((pod for pod in staying if not pod.current), key=lambda pod: (pod.ready, pod.created_at, pod.name))
    surplus = current[replicas:]
    spare = sum(pod.ready for pod in staying) - sum(pod.ready for pod in surplus) - (replicas - unavailable)
    leaving = [pod for pod in old if not pod.ready]
    leaving += [pod for pod in old if pod.ready][: max(0, spare)]
    present = len(pods) if surge == 0 else len(staying) - len(surplus) - len(leaving)
    start = min(replicas - len(current), replicas + surge - present)
    return Change(max(0, start), tuple(pod.name for pod in (*surplus, *leaving)))


def revision(template: Manifest) -> str:
    """Returns the template's hash; pods of another one are to be exchanged."""
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:9]


class Workload:
    """The pods of one model."""

    def __init__(self, key: Key, host: Host, on_change: Callable[[], None]):
        self.pods: dict[str, Pod] = {}
        self._key, self._host, self._on_change = key, host, on_change

    @property
    def endpoints(self) -> frozenset[Endpoint]:
        """Where requests may be sent."""
        return frozenset(pod.endpoint for pod in self.pods.values() if pod.ready and pod.endpoint)

    def apply(self, deployment: Manifest) -> None:
        """Takes the next step towards a Deployment; to be called again when a pod has changed."""
        spec = deployment["spec"]
        wanted, limits = revision(spec["template"]), spec["strategy"]["rollingUpdate"]
        self.bury()
        replicas = [Replica(pod.name, pod.revision == wanted, pod.ready, pod.stopping, pod.created_at) for pod in self.pods.values()]
        change = exchange(replicas, spec.get("replicas", 1), limits["maxSurge"], limits["maxUnavailable"])
        for name in change.stop:
            self.pods[name].stop()
        for _ in range(change.start):
            name = f"{deployment['metadata']['name']}-{wanted}-{secrets.token_hex(3)[:5]}"
            pod_spec = spec["template"]["spec"]
            self.pods[name] = Pod(name, pod_spec, self._host, owner=self._key, revision=wanted, on_change=self._on_change)
        for pod in self.pods.values():
            pod.start()

    def stop(self, *, loading_only: bool = False) -> None:
        """Ends all pods gently, or only those that serve nobody yet."""
        for pod in tuple(self.pods.values()):
            if not (pod.stopping or (loading_only and pod.ready)):
                pod.stop()

    def kill(self) -> None:
        """Ends all pods now."""
        for pod in tuple(self.pods.values()):
            pod.kill()

    async def gone(self) -> None:
        """Returns when no process is left."""
        for pod in tuple(self.pods.values()):
            await pod.gone.wait()
        self.bury()

    def bury(self) -> bool:
        """Forgets pods that are gone, and returns whether none is left."""
        for name in [name for name, pod in self.pods.items() if pod.gone.is_set()]:
            del self.pods[name]
        return not self.pods
