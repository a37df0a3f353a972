"""The address of a model inside the cluster; its EndpointSlices tell the gateway which pods are ready."""

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import HTTP_PORT, selector_labels
from modelyard.controller.builders.common import child
from modelyard.controller.types import BuildSettings, Manifest


def service(model: InferenceModel, settings: BuildSettings) -> Manifest:
    """Returns a ClusterIP Service on port 80. Its labels reach its EndpointSlices, by which the gateway finds them."""
    ports = [{"name": "http", "port": 80, "targetPort": HTTP_PORT, "protocol": "TCP"}]
    return child(
        model, settings, "v1", "Service", spec={"type": "ClusterIP", "selector": selector_labels(model.metadata.name), "ports": ports}
    )
