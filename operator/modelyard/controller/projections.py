"""What is kept of watched objects. A thousand models have ten thousand children and pods; whole, each would cost about 10 KB."""

from typing import Any, NamedTuple

import orjson

from modelyard.api.names import MODEL_LABEL, authority
from modelyard.controller import causes
from modelyard.controller.types import Manifest, PodView
from modelyard.kube.client import Resource

MANAGED = "app.kubernetes.io/managed-by=modelyard"

CHILDREN = {
    "Deployment": Resource("apps/v1", "deployments"),
    "Service": Resource("v1", "services"),
    "ServiceAccount": Resource("v1", "serviceaccounts"),
    "NetworkPolicy": Resource("networking.k8s.io/v1", "networkpolicies"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
}

_METADATA = ("name", "namespace", "labels", "annotations", "ownerReferences")


class Child(NamedTuple):
    """A child: the model it says it belongs to, and itself as JSON without what changes by the minute."""

    label: str
    blob: bytes

    def manifest(self) -> Manifest:
        """Returns the object."""
        parsed: Manifest = orjson.loads(self.blob)
        return parsed


class PodRecord(NamedTuple):
    """A pod: the model it belongs to, where it answers, and what it says."""

    label: str
    ip: str
    view: PodView


class Gateway(NamedTuple):
    """A gateway's address; ``ready`` when it takes requests, so that its word is needed."""

    address: str
    ready: bool


def child(api_version: str, kind: str, raw: dict[str, Any]) -> Child | None:
    """Projects a child; one that is being deleted is as good as gone. Items of a list do not say their kind, so it is given."""
    metadata = raw["metadata"]
    if "deletionTimestamp" in metadata:
        return None
    kept = {name: value for name, value in raw.items() if name not in ("metadata", "status")} | {"apiVersion": api_version, "kind": kind}
    kept["metadata"] = {name: metadata[name] for name in _METADATA if name in metadata}
    if failures := [c for c in raw.get("status", {}).get("conditions") or () if c["type"] == "ReplicaFailure"]:
        kept["status"] = {"conditions": [{name: c.get(name, "") for name in ("type", "status", "message")} for c in failures]}
    return Child(metadata.get("labels", {}).get(MODEL_LABEL, ""), orjson.dumps(kept))


def pod(raw: dict[str, Any]) -> PodRecord:
    """Projects a pod of a model."""
    return PodRecord(raw["metadata"]["labels"][MODEL_LABEL], raw.get("status", {}).get("podIP", ""), causes.view(raw))


def gateways(raw: dict[str, Any]) -> frozenset[Gateway]:
    """Projects an EndpointSlice of the gateways' private Service: those that end still carry requests, so they are followed too."""
    ports = [port["port"] for port in raw.get("ports") or () if port.get("port")]
    if not ports:
        return frozenset()
    return frozenset(
        Gateway(authority(host, ports[0]), endpoint.get("conditions", {}).get("ready") is not False)
        for endpoint in raw.get("endpoints") or ()
        for host in endpoint["addresses"]
    )
