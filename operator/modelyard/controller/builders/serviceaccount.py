"""The pods' own identity, which may do nothing."""

from modelyard.api.inference_model import InferenceModel
from modelyard.controller.builders.common import child
from modelyard.controller.types import BuildSettings, Manifest


def service_account(model: InferenceModel, settings: BuildSettings) -> Manifest:
    """Returns a ServiceAccount whose token is not mounted: a runtime never talks to the API server."""
    return child(model, settings, "v1", "ServiceAccount", automountServiceAccountToken=False)
