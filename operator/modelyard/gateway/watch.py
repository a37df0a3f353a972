"""The directory's feed in a cluster: InferenceModels, and the EndpointSlices of their Services.

The API server may be away for any time: what was last seen stays in force, and requests go on. Models are read from the resource alone, so
that a gateway that restarts while nothing runs still knows them and holds their requests.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any, NamedTuple

from modelyard.api import durations
from modelyard.api.names import API_VERSION, MODEL_LABEL, PLURAL, child_name
from modelyard.api.reasons import BLOCKING, LAST_LOG_LINE, Reason
from modelyard.api.replicas import ColdStart, Limits
from modelyard.gateway.directory import Directory
from modelyard.gateway.types import Endpoint, ModelRecord
from modelyard.kube.client import KubeClient, Resource
from modelyard.kube.informer import Informer, ObjectKey

MODELS = Resource(API_VERSION, PLURAL)
SLICES = Resource("discovery.k8s.io/v1", "endpointslices")

#: A model whose name an older one holds still answers under ``namespace/name``.
_REFUSING = BLOCKING - {Reason.NAME_CONFLICT}
_PORT_NAME = "http"


class Slice(NamedTuple):
    """What is kept of an EndpointSlice: the model's label and the addresses that are ready."""

    label: str
    endpoints: frozenset[Endpoint]


class ClusterWatch:
    """Keeps a directory in step with a cluster. Run `run` for as long as the gateway serves."""

    def __init__(self, client: KubeClient, directory: Directory, namespace: str):
        self._directory = directory
        self._keys: dict[tuple[str, str], str] = {}
        self._ready: dict[tuple[str, str], dict[str, frozenset[Endpoint]]] = {}
        self._models: Informer[ModelRecord] = Informer(
            client, MODELS, namespace=namespace or None, project=record_of, on_change=self._model_changed
        )
        self._slices: Informer[Slice] = Informer(
            client, SLICES, namespace=namespace or None, label_selector=MODEL_LABEL, project=slice_of, on_change=self._slice_changed
        )

    @property
    def synced(self) -> bool:
        """Whether everything has been seen once."""
        return self._models.synced.is_set() and self._slices.synced.is_set()

    @property
    def age(self) -> float:
        """Seconds since the API server was last heard of by the quieter of both watches."""
        return max(self._models.age, self._slices.age)

    async def run(self) -> None:
        """Follows the cluster until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._models.run())
            group.create_task(self._slices.run())

    def _model_changed(self, key: ObjectKey, _old: ModelRecord | None, new: ModelRecord | None) -> None:
        child, name = (key.namespace, child_name(key.name)), f"{key.namespace}/{key.name}"
        if new is None:
            self._keys.pop(child, None)
            self._directory.remove_model(name)
        else:
            self._keys[child] = name
            self._directory.set_model(new)
            self._point(child)

    def _slice_changed(self, key: ObjectKey, old: Slice | None, new: Slice | None) -> None:
        if old is not None and (new is None or new.label != old.label):
            self._forget(key, old)
        if new is not None:
            self._ready.setdefault((key.namespace, new.label), {})[key.name] = new.endpoints
            self._point((key.namespace, new.label))

    def _forget(self, key: ObjectKey, old: Slice) -> None:
        child = (key.namespace, old.label)
        slices = self._ready.get(child, {})
        slices.pop(key.name, None)
        if not slices:
            self._ready.pop(child, None)
        self._point(child)

    def _point(self, child: tuple[str, str]) -> None:
        """Tells the directory where a model's replicas are, once the model is known."""
        name = self._keys.get(child)
        if name is not None:
            self._directory.set_endpoints(name, frozenset[Endpoint]().union(*self._ready.get(child, {}).values()))


def record_of(raw: dict[str, Any]) -> ModelRecord | None:
    """Projects an InferenceModel. Reads leniently: one that a newer API server let in must not stop the others."""
    metadata, spec = raw["metadata"], raw.get("spec") or {}
    model = spec.get("model") or {}
    cold_start = (spec.get("scaling") or {}).get("coldStart") or {}
    status = raw.get("status") or {}
    return ModelRecord(
        key=f"{metadata['namespace']}/{metadata['name']}",
        aliases=tuple(model.get("aliases") or ()),
        adapters=tuple(str(adapter.get("name")) for adapter in (spec.get("engine") or {}).get("adapters") or ()),
        created=metadata.get("creationTimestamp", ""),
        capabilities=tuple(status.get("capabilities") or model.get("capabilities") or ()),
        blocked=_blocked(status.get("conditions") or []),
        max_wait=_seconds(cold_start.get("maxWait"), ColdStart().max_wait),
        max_queue=int(cold_start.get("maxQueue", ColdStart().max_queue)),
        keepalive=_seconds(cold_start.get("keepalive"), ColdStart().keepalive),
        request_timeout=_seconds((spec.get("limits") or {}).get("requestTimeout"), Limits().request_timeout),
    )


def slice_of(raw: dict[str, Any]) -> Slice | None:
    """Projects an EndpointSlice; a slice without the runtime's port has no endpoints."""
    label = raw["metadata"].get("labels", {}).get(MODEL_LABEL)
    if label is None:
        return None
    port = next((port["port"] for port in raw.get("ports") or () if port.get("name") == _PORT_NAME and port.get("port")), None)
    if port is None or raw.get("addressType") == "FQDN":
        return Slice(label, frozenset())
    ready = (one for one in raw.get("endpoints") or () if (one.get("conditions") or {}).get("ready") is not False)
    # All addresses of an endpoint lead to one pod; consumers use the first.
    return Slice(label, frozenset(Endpoint(one["addresses"][0], port) for one in ready if one.get("addresses")))


def _blocked(conditions: list[dict[str, Any]]) -> str | None:
    ready = next((condition for condition in conditions if condition.get("type") == "Ready"), None)
    if ready is None or ready.get("status") != "False" or ready.get("reason") not in _REFUSING:
        return None
    told = ready.get("message", "").partition(LAST_LOG_LINE)[0]
    return f"{ready['reason']}: {told}".rstrip(": ")


def _seconds(text: object, default: timedelta) -> float:
    try:
        return (default if text is None else durations.parse(text)).total_seconds()
    except ValueError:
        return default.total_seconds()
