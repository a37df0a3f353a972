"""The InferenceModel resource, defined once: `crds/` and the field reference are generated from here.

A field marked `NotYet` has its place in the API and is refused with "not supported yet" until something acts on it. Defaults
are the API server's own: they are written into the stored object, so that `kubectl get -o yaml` shows what is in force.
Rules that compare fields stand in the `rules` of the class that holds them all. The groups of fields are in `model`, `engine`, `pod`
and `replicas`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelyard.api.engine import Engine
from modelyard.api.fields import Part
from modelyard.api.markers import NotYet, OnlyYet, Rule
from modelyard.api.model import Cache, Generation, Model, Warmup
from modelyard.api.pod import Pod, Resources
from modelyard.api.replicas import Access, Limits, Rollout, Scaling
from modelyard.api.status import Condition, Decision, InferenceModelStatus, Metadata, ScalingStatus

__all__ = ["Condition", "Decision", "InferenceModel", "InferenceModelSpec", "InferenceModelStatus", "Metadata", "ScalingStatus"]

_GENERATES = (
    "!has(self.model.capabilities) || size(self.model.capabilities) == 0 || "
    "self.model.capabilities.exists(one, one in ['chat', 'completions', 'vision'])"
)
_ROOM = "must be less than engine.maxModelLength, which holds prompt and answer"


def _generating(field: str, left_out: str) -> Rule:
    """Returns the rule that only models that generate text have a field; ``left_out`` is true where it is not set."""
    message = "must be left out: only models that generate text take it, which have chat or completions among model.capabilities"
    return Rule(f"{_GENERATES} || {left_out}", message, field_path=f".{field}", reason="FieldValueForbidden")


class InferenceModelSpec(Part):
    """What the user wants."""

    rules = (
        _generating("generation", "!has(self.generation)"),
        _generating("engine.adapters", "!has(self.engine.adapters) || size(self.engine.adapters) == 0"),
        _generating("engine.quantization", "self.engine.quantization == 'none'"),
        Rule(
            "!has(self.limits.maxPromptTokens) || !has(self.engine.maxModelLength) || "
            "self.limits.maxPromptTokens < self.engine.maxModelLength",
            _ROOM,
            field_path=".limits.maxPromptTokens",
        ),
        Rule(
            "!has(self.limits.maxNewTokens) || !has(self.engine.maxModelLength) || self.limits.maxNewTokens < self.engine.maxModelLength",
            _ROOM,
            field_path=".limits.maxNewTokens",
        ),
    )

    model: Model = Field(description="What is served.")
    engine: Engine = Field(default=Engine(), description="What serves it.")
    resources: Resources = Field(default=Resources(), description="What one replica needs.")
    scaling: Scaling = Field(default=Scaling(), description="How many replicas run.")
    rollout: Rollout = Field(default=Rollout(), description="How a change reaches the pods.")
    routing: Annotated[Literal["LeastLoad", "PrefixAffinity", "RoundRobin"], OnlyYet(("LeastLoad",))] = Field(
        default="LeastLoad", description="How the gateway chooses a replica."
    )
    limits: Limits = Field(default=Limits(), description="Bounds of one replica.")
    generation: Generation | None = Field(default=None, description="Sampling defaults.")
    warmup: Warmup | None = Field(default=None, description="Forward passes before readiness.")
    cache: Annotated[Cache | None, NotYet()] = Field(default=None, description="Where downloaded weights are kept.")
    access: Annotated[Access | None, NotYet()] = Field(default=None, description="Who may use the model.")
    pod: Pod = Field(default=Pod(), description="Overrides of the pod template.")


class InferenceModel(BaseModel):
    """A model that Modelyard serves."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    api_version: Literal["modelyard.dev/v1alpha1"] = "modelyard.dev/v1alpha1"
    kind: Literal["InferenceModel"] = "InferenceModel"
    metadata: Metadata
    spec: InferenceModelSpec
    status: InferenceModelStatus = InferenceModelStatus()
