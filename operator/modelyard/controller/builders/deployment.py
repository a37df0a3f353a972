"""The pods of a model: how many, where they may run, and how a change reaches them."""

from typing import Any

from modelyard.api.inference_model import InferenceModel, InferenceModelSpec
from modelyard.api.names import child_labels, child_name, selector_labels
from modelyard.controller.builders.common import child
from modelyard.controller.builders.runtime import container
from modelyard.controller.builders.volumes import volumes
from modelyard.controller.types import BuildSettings, Manifest

#: Added to the drain timeout: the runtime's settle time, and its own exit.
GRACE_SECONDS = 15
#: A replica may download for long before it counts as stuck; the root cause is told long before that.
PROGRESS_DEADLINE_SECONDS = 3600
#: The runtime image's user. Any other image must run as this number too.
USER = 65532

PRODUCT_LABEL = "nvidia.com/gpu.product"


def deployment(model: InferenceModel, settings: BuildSettings, replicas: int | None) -> Manifest:
    """Returns the Deployment; without ``replicas`` when another autoscaler writes them."""
    spec: dict[str, Any] = {
        "selector": {"matchLabels": selector_labels(model.metadata.name)},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": strategy(model.spec)},
        "revisionHistoryLimit": 2,
        "progressDeadlineSeconds": PROGRESS_DEADLINE_SECONDS,
        "template": {"metadata": _pod_metadata(model), "spec": _pod_spec(model, settings)},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return child(model, settings, "apps/v1", "Deployment", spec=spec)


def strategy(spec: InferenceModelSpec) -> dict[str, int]:
    """Returns how pods are exchanged. A surge needs free devices; where there are none it never ends, so devices are handed over."""
    replace = spec.rollout.strategy == "Replace" or (spec.rollout.strategy == "Auto" and spec.resources.gpu.count > 0)
    return {"maxSurge": 0, "maxUnavailable": 1} if replace else {"maxSurge": 1, "maxUnavailable": 0}


def _pod_metadata(model: InferenceModel) -> dict[str, Any]:
    """Returns labels without the operator's version: an upgrade of the operator must not restart every model."""
    labels = child_labels(model.metadata.name, "")
    labels.pop("app.kubernetes.io/version")
    metadata: dict[str, Any] = {"labels": model.spec.pod.labels | labels}
    if model.spec.pod.annotations:
        metadata["annotations"] = dict(model.spec.pod.annotations)
    return metadata


def _pod_spec(model: InferenceModel, settings: BuildSettings) -> dict[str, Any]:
    spec = model.spec
    return {
        "serviceAccountName": child_name(model.metadata.name),
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": int(spec.rollout.drain_timeout.total_seconds()) + GRACE_SECONDS,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container(model, settings)],
        "volumes": volumes(spec),
        "topologySpreadConstraints": [_spread(model)],
    } | _placement(spec)


def _spread(model: InferenceModel) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": selector_labels(model.metadata.name)},
        "matchLabelKeys": ["pod-template-hash"],
    }


def _placement(spec: InferenceModelSpec) -> dict[str, Any]:
    """Returns the fields that say where pods may run; those that nobody asked for are left out."""
    tolerations = [toleration.model_dump(by_alias=True, exclude_none=True) for toleration in spec.pod.tolerations]
    if spec.resources.gpu.count:
        tolerations.append({"key": spec.resources.gpu.resource, "operator": "Exists", "effect": "NoSchedule"})
    fields: dict[str, Any] = {
        "tolerations": tolerations,
        "affinity": _product_affinity(spec.resources.gpu.product),
        "nodeSelector": dict(spec.pod.node_selector),
        "priorityClassName": spec.pod.priority_class_name,
        "runtimeClassName": spec.pod.runtime_class_name,
        "imagePullSecrets": [{"name": name} for name in spec.pod.image_pull_secrets],
    }
    return {name: value for name, value in fields.items() if value}


def _product_affinity(product: str | None) -> dict[str, Any] | None:
    if product is None:
        return None
    terms = [{"matchExpressions": [{"key": PRODUCT_LABEL, "operator": "In", "values": [product]}]}]
    return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}
