"""Kubernetes events on models: what `kubectl describe im` shows below the status."""

import hashlib
import logging
import time
from typing import Protocol

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import API_VERSION, FIELD_MANAGER, KIND, child_name
from modelyard.api.times import rfc3339
from modelyard.kube.client import MERGE_PATCH, ApiFailure, KubeClient, Object, Resource

log = logging.getLogger(__name__)

EVENTS = Resource("v1", "events")
_LONGEST_MESSAGE = 1024


class EventLike(Protocol):
    """An event before it is written: as planned by the controller."""

    @property
    def type(self) -> str:
        """Normal or Warning."""

    @property
    def reason(self) -> str:
        """One word in CamelCase."""

    @property
    def message(self) -> str:
        """A sentence."""


async def emit(client: KubeClient, model: InferenceModel, event: EventLike) -> None:
    """Writes an event on the model. The same event again raises the first one's count instead of adding another.

    A failure is logged, not raised: status already says the same, and events are kept for an hour only.
    """
    namespace = model.metadata.namespace
    body = _event(model, event)
    path = EVENTS.path(namespace, body["metadata"]["name"])
    try:
        try:
            await client.create(EVENTS.path(namespace), body)
        except ApiFailure as failure:
            if not failure.conflict:
                raise
            count = (await client.get(path)).get("count", 1) + 1
            await client.patch(path, {"count": count, "lastTimestamp": body["lastTimestamp"]}, content_type=MERGE_PATCH)
    except ApiFailure as failure:
        log.warning("event %s on %s/%s was not written: %s", event.reason, namespace, model.metadata.name, failure)


def _event(model: InferenceModel, event: EventLike) -> Object:
    metadata = model.metadata
    now = rfc3339(time.time())
    digest = hashlib.sha256("\0".join((metadata.uid, event.type, event.reason, event.message)).encode()).hexdigest()[:10]
    about = {"apiVersion": API_VERSION, "kind": KIND, "namespace": metadata.namespace, "name": metadata.name, "uid": metadata.uid}
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": f"{child_name(metadata.name)}.{digest}", "namespace": metadata.namespace},
        "involvedObject": about,
        "type": event.type,
        "reason": event.reason,
        "message": event.message[:_LONGEST_MESSAGE],
        "source": {"component": FIELD_MANAGER},
        "reportingComponent": FIELD_MANAGER,
        "reportingInstance": FIELD_MANAGER,
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
    }
