"""Server-side apply under one field manager, and the question that comes before it: does anything differ?

Every applied object carries a hash of what was asked for. An object is left alone when that hash is the wanted one (nothing was
added, changed or dropped since) and all that is wanted is still in force (nobody else changed it).
"""

import hashlib
from typing import Any

import orjson

from modelyard.api import quantities
from modelyard.api.names import APPLIED_HASH_ANNOTATION, FIELD_MANAGER
from modelyard.kube.client import APPLY_PATCH, ApiFailure, KubeClient, Object, Resource

PLURALS = {
    "ConfigMap": "configmaps",
    "Deployment": "deployments",
    "EndpointSlice": "endpointslices",
    "Event": "events",
    "InferenceModel": "inferencemodels",
    "Lease": "leases",
    "Namespace": "namespaces",
    "NetworkPolicy": "networkpolicies",
    "Node": "nodes",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    "Pod": "pods",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Secret": "secrets",
    "Service": "services",
    "ServiceAccount": "serviceaccounts",
    "Tenant": "tenants",
}

_FORCE = {"fieldManager": FIELD_MANAGER, "force": "true"}


def resource_path(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    """Returns the path of an object, or of its collection without ``name``; raises KeyError for a kind not in `PLURALS`."""
    return Resource(api_version, PLURALS[kind]).path(namespace, name)


def path_of(manifest: Object) -> str:
    """Returns the path of the object that a manifest describes."""
    metadata = manifest["metadata"]
    return resource_path(manifest["apiVersion"], manifest["kind"], metadata.get("namespace"), metadata["name"])


async def apply(client: KubeClient, manifest: Object) -> Object:
    """Applies a manifest, hash included, and returns the object as stored; raises ApiFailure."""
    return await client.patch(path_of(manifest), stamped(manifest), content_type=APPLY_PATCH, params=_FORCE)


async def apply_status(client: KubeClient, manifest: Object) -> Object:
    """Applies a whole status, given as ``apiVersion``, ``kind``, ``metadata`` (name and namespace) and ``status``.

    What a former status said and this one does not is removed. ApiFailure with `not_found` when the object is gone. (The API server
    ignores a uid here: a namesake created a moment ago gets this status until its own reconcile.)
    """
    return await client.patch(path_of(manifest) + "/status", manifest, content_type=APPLY_PATCH, params=_FORCE)


async def delete(client: KubeClient, api_version: str, kind: str, namespace: str, name: str, *, uid: str | None = None) -> bool:
    """Deletes an object and, in the background, its dependants; returns False when it was gone already."""
    options: Object = {"propagationPolicy": "Background"} | ({"preconditions": {"uid": uid}} if uid else {})
    try:
        await client.delete(resource_path(api_version, kind, namespace, name), options=options)
    except ApiFailure as failure:
        if failure.not_found:
            return False
        raise
    return True


def fingerprint(manifest: Object) -> str:
    """Returns a hash of a manifest that does not depend on the order of keys."""
    return hashlib.sha256(orjson.dumps(manifest, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def stamped(manifest: Object) -> Object:
    """Returns a copy of the manifest with its hash among the annotations."""
    metadata = manifest["metadata"]
    annotations = {**(metadata.get("annotations") or {}), APPLIED_HASH_ANNOTATION: fingerprint(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def differs(desired: Object, live: Object | None) -> bool:
    """Returns whether ``desired`` (not stamped) has to be applied over ``live``, the stored object or None."""
    if live is None:
        return True
    annotations = live.get("metadata", {}).get("annotations") or {}
    return annotations.get(APPLIED_HASH_ANNOTATION) != fingerprint(desired) or not within(desired, live)


def within(desired: Any, live: Any) -> bool:
    """Returns whether everything in ``desired`` is in ``live``, which may hold more: defaults, and what others own.

    Named things (containers, variables, volumes, ports) are found by name; other lists must agree item by item. Quantities are
    compared by value. An empty wish is granted by absence.
    """
    if isinstance(desired, dict):
        return (not desired and live is None) or (
            isinstance(live, dict) and all(within(want, live.get(key)) for key, want in desired.items())
        )
    if isinstance(desired, list):
        return (not desired and live is None) or (isinstance(live, list) and _items_within(desired, live))
    return desired is None or (type(desired) is type(live) and desired == live) or quantities.same(desired, live)


def _items_within(desired: list[Any], live: list[Any]) -> bool:
    if desired and all(isinstance(item, dict) and "name" in item for item in desired):
        named = {item.get("name"): item for item in live if isinstance(item, dict)}
        return all(within(item, named.get(item["name"])) for item in desired)
    return len(desired) == len(live) and all(map(within, desired, live))
