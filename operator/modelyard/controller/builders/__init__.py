"""Manifests as functions of values: a model, the operator's settings and a number of replicas go in, an object comes out."""

from modelyard.api.inference_model import InferenceModel
from modelyard.controller.builders.deployment import deployment
from modelyard.controller.builders.networkpolicy import network_policy
from modelyard.controller.builders.poddisruptionbudget import pod_disruption_budget
from modelyard.controller.builders.service import service
from modelyard.controller.builders.serviceaccount import service_account
from modelyard.controller.types import BuildSettings, Manifest

__all__ = ["children", "deployment", "network_policy", "pod_disruption_budget", "service", "service_account"]


def children(model: InferenceModel, settings: BuildSettings, replicas: int | None) -> tuple[Manifest, ...]:
    """Returns every object of a model in the order of their needs: the pods' ServiceAccount and fences before the pods.

    ``replicas`` None leaves the number to another autoscaler.
    """
    return (
        service_account(model, settings),
        network_policy(model, settings),
        service(model, settings),
        deployment(model, settings, replicas),
        pod_disruption_budget(model, settings),
    )
