"""What is observed: informers over the children, the pods and the gateways, and from their records one `Observed` per model.

The happy path reads memory alone. Only for a pod that hangs before its container starts are its events asked for: the kubelet
tells missing volumes nowhere else.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import MODEL_LABEL, child_name
from modelyard.controller import causes, projections
from modelyard.controller.models import Models
from modelyard.controller.projections import CHILDREN, MANAGED, Child, Gateway, PodRecord
from modelyard.controller.queue import Urgency, WorkQueue
from modelyard.controller.types import Key, Manifest, ObjectId, Observed, PodPhase, PodView
from modelyard.kube.client import KubeClient, Resource
from modelyard.kube.informer import Informer, ObjectKey

#: A burst of events about one model, such as a rollout's, is answered once.
COALESCE_SECONDS = 0.3
#: A container that has not started this long after its pod was placed is looked into, and again each time.
HANGING_SECONDS = 10.0

EVENTS = Resource("v1", "events")
PODS = Resource("v1", "pods")
SLICES = Resource("discovery.k8s.io/v1", "endpointslices")


class Cluster:
    """The records of everything around the models, and who is told when they change."""

    def __init__(
        self,
        client: KubeClient,
        models: Models,
        queue: WorkQueue,
        *,
        watch_namespace: str | None,
        gateway: tuple[str, str],
        on_gateways: Callable[[frozenset[Gateway]], None],
    ):
        """``gateway`` is the namespace and the name of the gateways' private Service; ``on_gateways`` is called with all of them."""
        self._client, self._models, self._queue = client, models, queue
        self._pods_of: defaultdict[ObjectKey, dict[str, PodRecord]] = defaultdict(dict)
        self.children: dict[str, Informer[Child]] = {
            kind: Informer(
                client,
                resource,
                namespace=watch_namespace,
                label_selector=MANAGED,
                project=partial(projections.child, resource.api_version, kind),
                on_change=self._child_changed,
            )
            for kind, resource in CHILDREN.items()
        }
        self.pods = Informer(
            client, PODS, namespace=watch_namespace, label_selector=MODEL_LABEL, project=projections.pod, on_change=self._pod_changed
        )
        namespace, service = gateway
        self.gateways = Informer(
            client,
            SLICES,
            namespace=namespace,
            label_selector=f"kubernetes.io/service-name={service}",
            project=projections.gateways,
            on_change=lambda *_: on_gateways(self.known_gateways()),
        )

    @property
    def informers(self) -> tuple[Informer[Any], ...]:
        """All informers, to be run and asked for their age."""
        return (*self.children.values(), self.pods, self.gateways)

    def known_gateways(self) -> frozenset[Gateway]:
        """Returns every gateway in the EndpointSlices."""
        return frozenset().union(*self.gateways.records.values())

    def pods_of(self, key: Key) -> tuple[PodRecord, ...]:
        """Returns the pods of a model."""
        return tuple(self._pods_of.get(ObjectKey(key.namespace, child_name(key.name)), {}).values())

    def children_of(self, key: Key) -> dict[ObjectId, Manifest]:
        """Returns the live children of a model."""
        name = child_name(key.name)
        found = ((kind, informer.get(key.namespace, name)) for kind, informer in self.children.items())
        return {ObjectId(kind, name): record.manifest() for kind, record in found if record is not None}

    def store(self, kind: str, raw: Manifest) -> None:
        """Takes over a child as an apply returned it: until its event arrives, it would be applied again."""
        informer, metadata = self.children[kind], raw["metadata"]
        if (record := projections.child(informer.resource.api_version, kind, raw)) is not None:
            informer.records[ObjectKey(metadata["namespace"], metadata["name"])] = record

    async def observe(self, key: Key, model: InferenceModel) -> Observed:
        """Returns what is seen of a model; the autoscaler's and the last apply's words are the caller's to add."""
        now = time.time()
        pods = [await self._explained(key, record.view, now) for record in self.pods_of(key)]
        return Observed(
            children=self.children_of(key),
            pods=tuple(sorted(pods, key=lambda pod: pod.name)),
            previous=model.status,
            name_conflict=self._models.conflict(key),
            now=now,
        )

    async def _explained(self, key: Key, pod: PodView, now: float) -> PodView:
        """Returns the pod with the cause that only its events tell, when it hangs without saying why."""
        if pod.phase is not PodPhase.SCHEDULED or pod.problem is not None:
            return pod
        self._queue.add(key, Urgency.RESYNC, after=HANGING_SECONDS)
        if now - (pod.scheduled_at or now) < HANGING_SECONDS:
            return pod
        selector = {"fieldSelector": f"involvedObject.kind=Pod,involvedObject.name={pod.name}"}
        listed = await self._client.request("GET", EVENTS.path(key.namespace), params=selector)
        return replace(pod, problem=causes.mount_failure(pod, listed.get("items") or []))

    def _child_changed(self, key: ObjectKey, old: Child | None, new: Child | None) -> None:
        record = new or old
        assert record is not None
        self._mark(key.namespace, record.label, after=COALESCE_SECONDS if new else 0.0)

    def _pod_changed(self, key: ObjectKey, old: PodRecord | None, new: PodRecord | None) -> None:
        record = new or old
        assert record is not None
        owner = ObjectKey(key.namespace, record.label)
        if new is not None:
            self._pods_of[owner][key.name] = new
        else:
            self._pods_of[owner].pop(key.name, None)
            if not self._pods_of[owner]:
                del self._pods_of[owner]
        self._mark(key.namespace, record.label, after=COALESCE_SECONDS)

    def _mark(self, namespace: str, label: str, *, after: float) -> None:
        if (model := self._models.by_child(namespace, label)) is not None:
            self._queue.add(model, after=after)
