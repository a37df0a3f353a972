"""Metadata and status of the resources: what Kubernetes and the operator write."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel


class Metadata(BaseModel):
    """The part of ObjectMeta that Modelyard reads."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: str
    namespace: str = "default"
    uid: str = ""
    generation: int = 1
    resource_version: str = ""
    creation_timestamp: str = ""
    deletion_timestamp: str | None = None
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


class Condition(BaseModel):
    """A condition as in the Kubernetes API conventions."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    type: Annotated[str, Field(max_length=316)] = Field(description="Ready, ModelCached, Scheduled, Loaded, Available or Progressing.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether it holds.")
    reason: Annotated[str, Field(max_length=1024)] = Field(description="The cause in one word.")
    message: Annotated[str, Field(max_length=32768)] = Field(
        default="", description="The cause in a sentence, with the pod, the last log line and a remedy."
    )
    observed_generation: int = Field(default=0, description="The spec's generation that this was said of.")
    last_transition_time: str = Field(default="", description="When status last changed.")


class Decision(BaseModel):
    """A decision of the autoscaler."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    time: Annotated[str, Field(max_length=64)] = Field(description="When.")
    from_: Annotated[int, Field(alias="from")] = Field(description="Replicas before.")
    to: int = Field(description="Replicas after.")
    why: Annotated[str, Field(max_length=1024)] = Field(description="The demand, target and bounds that led to it.")


class ScalingStatus(BaseModel):
    """What the autoscaler did."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    decisions: Annotated[list[Decision], Field(max_length=5)] = Field(default=[], description="The last five decisions.")


class TriedEngine(BaseModel):
    """An engine that does not run the model."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=64)] = Field(description="Its name.")
    why: Annotated[str, Field(max_length=1024)] = Field(description="Why it does not run the model.")


class EngineStatus(BaseModel):
    """What computes a model."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=64)] = Field(description="The engine that runs the model, such as batching, generate or encoder.")
    device: Annotated[str, Field(max_length=64)] = Field(default="", description="Where it computes.")
    dtype: Annotated[str, Field(max_length=64)] = Field(default="", description="The data type that it computes in.")
    quantization: Annotated[str, Field(max_length=64)] = Field(
        default="none", description="What the weights are in: none, int8, int4, fp8, or the checkpoint's own format."
    )
    kernels: Annotated[dict[Annotated[str, Field(max_length=64)], int], Field(max_length=32)] = Field(
        default={}, description="Layers by what computes them."
    )
    tried: Annotated[list[TriedEngine], Field(max_length=8)] = Field(
        default=[], description="Engines that were tried before it, and why they do not run the model."
    )


class InferenceModelStatus(BaseModel):
    """What the operator saw."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    observed_generation: int = Field(default=0, description="The spec's generation that this status is of.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(default=[], description="Ready summarises the others.")
    replicas: int = Field(default=0, description="Pods of the model, ready or not.")
    ready_replicas: int = Field(default=0, description="Pods that answer requests.")
    selector: Annotated[str, Field(max_length=1024)] = Field(default="", description="Label selector of the pods, for /scale.")
    url: Annotated[str, Field(max_length=1024)] = Field(default="", description="The OpenAI base URL inside the cluster.")
    capabilities: Annotated[list[str], Field(max_length=16)] = Field(default=[], description="What the model may be asked for.")
    engine: EngineStatus | None = Field(default=None, description="What computes the replica that became ready last.")
    cold_start: Annotated[dict[str, float], Field(max_length=16)] = Field(
        default={}, description="Seconds per phase of the last start: schedule, pull, download, load, warmup."
    )
    scaling: ScalingStatus = Field(default=ScalingStatus(), description="What the autoscaler did.")
