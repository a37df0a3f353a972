"""The InferenceModel resource, defined once: `crds/` and the field reference are generated from here.

A field marked `NotYet` has its place in the API and is refused with "not supported yet" until something acts on it. Defaults
are the API server's own: they are written into the stored object, so that `kubectl get -o yaml` shows what is in force.
Rules that compare fields stand in the `rules` of the class that holds them all. The groups of fields are in `model`, `engine`, `pod`
and `replicas`.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelyard.api.engine import Engine
from modelyard.api.fields import Part
from modelyard.api.markers import NotYet, OnlyYet, Rule
from modelyard.api.model import Cache, Generation, Media, Model, Warmup
from modelyard.api.pod import Pod, Resources
from modelyard.api.replicas import Access, Limits, Rollout, Scaling
from modelyard.api.status import Condition, Decision, InferenceModelStatus, Metadata, ScalingStatus

__all__ = ["Condition", "Decision", "InferenceModel", "InferenceModelSpec", "InferenceModelStatus", "Metadata", "ScalingStatus"]


class _Only(NamedTuple):
    """Models that alone take a field: in words, and by the capabilities of which such a model has one."""

    models: str
    capabilities: tuple[str, ...]
    shown: str

    def take(self, field: str, left_out: str) -> Rule:
        """Returns the rule; ``left_out`` is true where the field is not set. Capabilities that are detected are judged by the runtime."""
        cel = (
            "!has(self.model.capabilities) || size(self.model.capabilities) == 0 || "
            f"self.model.capabilities.exists(one, one in {list(self.capabilities)}) || {left_out}"
        )
        message = f"must be left out: only models that {self.models} take it, which have {self.shown} among model.capabilities"
        return Rule(cel, message, field_path=f".{field}", reason="FieldValueForbidden")


_WRITERS = _Only("generate text", ("chat", "completions", "vision"), "chat or completions")
_SEERS = _Only("read images", ("vision",), "vision")
_HEARERS = _Only("write down speech", ("transcription",), "transcription")
_ENCODERS = _Only("embed or judge texts", ("embeddings", "rerank", "classify"), "embeddings, rerank or classify")
_EMBEDDERS = _Only("embed texts", ("embeddings", "rerank"), "embeddings or rerank")


def _leaves_room(field: str) -> Rule:
    """Returns the rule that a bound of tokens is below the model's length."""
    cel = f"!has(self.{field}) || !has(self.engine.maxModelLength) || self.{field} < self.engine.maxModelLength"
    return Rule(cel, "must be less than engine.maxModelLength, which holds prompt and answer", field_path=f".{field}")


class InferenceModelSpec(Part):
    """What the user wants."""

    rules = (
        _WRITERS.take("generation", "!has(self.generation)"),
        _WRITERS.take("engine.adapters", "!has(self.engine.adapters) || size(self.engine.adapters) == 0"),
        _WRITERS.take("engine.quantization", "self.engine.quantization == 'none'"),
        _WRITERS.take("engine.kvCacheTokens", "!has(self.engine.kvCacheTokens)"),
        _WRITERS.take("engine.prefixCaching", "self.engine.prefixCaching"),
        _WRITERS.take("engine.speculativeTokens", "self.engine.speculativeTokens == 0"),
        _ENCODERS.take("engine.maxBatchTokens", "!has(self.engine.maxBatchTokens)"),
        _EMBEDDERS.take("engine.embeddingCache", "!has(self.engine.embeddingCache)"),
        _ENCODERS.take("engine.reportUsage", "self.engine.reportUsage"),
        _HEARERS.take("engine.beamSize", "!has(self.engine.beamSize)"),
        _SEERS.take("media.fetch", "!has(self.media) || !has(self.media.fetch)"),
        _SEERS.take("media.images", "!has(self.media) || !has(self.media.images)"),
        _HEARERS.take("media.audio", "!has(self.media) || !has(self.media.audio)"),
        _leaves_room("limits.maxPromptTokens"),
        _leaves_room("limits.maxNewTokens"),
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
    media: Media | None = Field(default=None, description="Images and recordings of requests.")
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
