"""What every child carries: its name, its labels and its owner."""

from typing import Any

from modelyard.api.inference_model import InferenceModel
from modelyard.api.names import API_VERSION, KIND, child_labels, child_name
from modelyard.controller.types import BuildSettings, Manifest


def child(model: InferenceModel, settings: BuildSettings, api_version: str, kind: str, **body: Any) -> Manifest:
    """Returns an object that the model owns, so that deleting the model deletes it, with or without the operator."""
    return {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": child_name(model.metadata.name),
            "namespace": model.metadata.namespace,
            "labels": child_labels(model.metadata.name, settings.version),
            "ownerReferences": [owner_reference(model)],
        },
        **body,
    }


def owner_reference(model: InferenceModel) -> dict[str, Any]:
    """Returns a controller reference that does not hold up the model's deletion."""
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "name": model.metadata.name,
        "uid": model.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": False,
    }
