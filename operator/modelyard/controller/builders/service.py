"""The EndpointSlices of a model, which tell the gateway which pods are ready."""

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import HTTP_PORT, selector_labels
from modelyard.controller.builders.common import child
from modelyard.controller.types import BuildSettings, Manifest


def service(model: InferenceModel, settings: BuildSettings) -> Manifest:
    """Returns a headless Service. Its labels reach its EndpointSlices, by which the gateway finds them.

    Nobody but the gateway may reach the pods, and it asks for no address of the whole: one would cost a rule on every node, and the
    API server hands such addresses out one at a time.
    """
    ports = [{"name": "http", "port": HTTP_PORT, "targetPort": HTTP_PORT, "protocol": "TCP"}]
    return child(
        model, settings, "v1", "Service", spec={"clusterIP": "None", "selector": selector_labels(model.metadata.name), "ports": ports}
    )
