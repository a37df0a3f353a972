"""Node drains take one replica of a model at a time."""

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import selector_labels
from modelyard.controller.builders.common import child
from modelyard.controller.types import BuildSettings, Manifest


def pod_disruption_budget(model: InferenceModel, settings: BuildSettings) -> Manifest:
    """Returns a budget of one pod. A model with a single replica must not block drains, and a broken pod protects nothing."""
    spec = {
        "maxUnavailable": 1,
        "selector": {"matchLabels": selector_labels(model.metadata.name)},
        "unhealthyPodEvictionPolicy": "AlwaysAllow",
    }
    return child(model, settings, "policy/v1", "PodDisruptionBudget", spec=spec)
