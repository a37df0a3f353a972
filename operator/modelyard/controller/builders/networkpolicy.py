"""Only the gateway and the monitoring reach a model's pods: requests must not pass by the gateway's limits."""

from typing import Any

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import HTTP_PORT, METRICS_PORT, selector_labels
from modelyard.controller.builders.common import child
from modelyard.controller.types import BuildSettings, Manifest


def network_policy(model: InferenceModel, settings: BuildSettings) -> Manifest:
    """Returns an ingress policy; egress is left open, since sources of weights are anywhere."""
    spec = {
        "podSelector": {"matchLabels": selector_labels(model.metadata.name)},
        "policyTypes": ["Ingress"],
        "ingress": [
            _from_namespace(settings.gateway_namespace, HTTP_PORT, METRICS_PORT),
            _from_namespace(settings.monitoring_namespace, METRICS_PORT),
        ],
    }
    return child(model, settings, "networking.k8s.io/v1", "NetworkPolicy", spec=spec)


def _from_namespace(namespace: str, *ports: int) -> dict[str, Any]:
    return {
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}],
        "ports": [{"protocol": "TCP", "port": port} for port in ports],
    }
