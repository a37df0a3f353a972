"""The InferenceModel resource, defined once: `crds/` and the field reference are generated from here.

A field marked `NotYet` has its place in the API and is refused with "not supported yet" until something acts on it. Defaults
are the API server's own: they are written into the stored object, so that `kubectl get -o yaml` shows what is in force.
Rules that compare fields stand in the `rules` of the class that holds them all.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelyard.api.durations import Duration, between
from modelyard.api.fields import (
    Alias,
    Argument,
    Bytes,
    Cores,
    DeviceResource,
    Image,
    LabelKey,
    LabelValue,
    Name,
    NodeLabels,
    Part,
    PodAnnotations,
    PodLabels,
    Source,
    VariableName,
    text,
)
from modelyard.api.markers import Keyed, NotYet, OnlyYet, Rule
from modelyard.api.status import Condition, Decision, InferenceModelStatus, Metadata, ScalingStatus

__all__ = ["Condition", "Decision", "InferenceModel", "InferenceModelSpec", "InferenceModelStatus", "Metadata", "ScalingStatus"]

_GENERATES = (
    "!has(self.model.capabilities) || size(self.model.capabilities) == 0 || "
    "self.model.capabilities.exists(one, one in ['chat', 'completions', 'vision'])"
)
_ROOM = "must be less than engine.maxModelLength, which holds prompt and answer"


class Capability(StrEnum):
    """What a model can do; each is a family of endpoints."""

    CHAT = "chat"
    VISION = "vision"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    CLASSIFY = "classify"
    TRANSCRIPTION = "transcription"


_TOGETHER = Rule(
    "self.all(one, one in ['chat', 'completions', 'vision']) || self.all(one, one in ['embeddings', 'rerank']) || "
    "self.all(one, one in ['rerank', 'classify']) || self.all(one, one == 'transcription')",
    "are not one model's: together may be chat, completions and vision; embeddings and rerank; or rerank and classify",
)


class Model(Part):
    """What is served."""

    source: Source = Field(
        description="Where the weights are: hf://org/name[@revision], s3://bucket/path, gs://bucket/path, pvc://claim/path, file:///path "
        "(in the image or on the machine) or builtin://name."
    )
    capabilities: Annotated[list[Capability], Field(max_length=8), Keyed(), _TOGETHER] = Field(
        default=[], description="What the model may be asked for. Detected from its config.json when left out."
    )
    aliases: Annotated[list[Alias], Field(max_length=16), Keyed()] = Field(
        default=[], description="Further names that clients may put in the request's `model`, such as gpt-4o-mini."
    )
    credentials_secret: Name | None = Field(
        default=None,
        description="A Secret in the model's namespace for the source. hf://: key `token`, the hub's access token. s3://: keys "
        "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and where needed AWS_SESSION_TOKEN, AWS_REGION and AWS_ENDPOINT_URL. gs://: key "
        "`credentials.json`, a service account's key.",
    )
    trust_remote_code: bool = Field(default=False, description="Whether Python code that comes with the weights may run.")


class EngineName(StrEnum):
    """The program that serves the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    LLAMACPP = "llamacpp"
    CUSTOM = "custom"


class EnvVar(Part):
    """An environment variable of the runtime's container."""

    name: VariableName = Field(description="The variable's name. Those that Modelyard sets itself are refused.")
    value: Annotated[str, Field(max_length=4096)] = Field(
        default="", description="The variable's value. For secrets use model.credentialsSecret."
    )


class Adapter(Part):
    """A LoRA adapter."""

    name: Annotated[
        str, Field(min_length=1, max_length=63), text("^[A-Za-z0-9][A-Za-z0-9._-]*$", "must be letters, digits, '.', '_' and '-'")
    ] = Field(description="The adapter's name; requests route to it as model:adapter.")
    source: Source = Field(description="Where its weights are, as in model.source.")


class Parallelism(Part):
    """How one replica is spread over devices and nodes."""

    tensor: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Devices that share each layer.")
    pipeline: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Groups of layers, each on devices of its own.")
    nodes: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Nodes of one replica.")


class Engine(Part):
    """The program that serves the model, and its arguments."""

    rules = (
        Rule("!has(self.quantizeAbove) || self.quantization == 'auto'", "is for quantization: auto alone", field_path=".quantizeAbove"),
    )

    name: Annotated[EngineName, OnlyYet(("transformers",))] = Field(default=EngineName.TRANSFORMERS, description="The engine.")
    image: Image | None = Field(default=None, description="The runtime's image instead of the operator's setting.")
    args: Annotated[list[Argument], Field(max_length=64)] = Field(
        default=[], description="Further arguments of `modelyard-runtime serve`, one word each. Flags that a field sets are refused."
    )
    env: Annotated[list[EnvVar], Field(max_length=64), Keyed("name")] = Field(default=[], description="Further environment variables.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Data type of weights; auto asks the device what it computes fastest."
    )
    quantization: Literal["auto", "none", "int8", "int4", "fp8"] = Field(
        default="none", description="Weight quantization at load; auto is int4 for weight files larger than quantizeAbove."
    )
    quantize_above: Bytes | None = Field(
        default=None, description="Size of weight files up to which quantization: auto leaves them as they are; 16Gi when left out."
    )
    max_model_length: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        default=None, description="Longest prompt plus answer, in tokens. By the model and the memory, 8192 at most, when left out."
    )
    max_concurrent_sequences: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        default=None, description="Sequences that one replica generates at once."
    )
    adapters: Annotated[list[Adapter], Field(max_length=32), Keyed("name")] = Field(
        default=[], description="LoRA adapters, in PEFT's format."
    )
    parallelism: Annotated[Parallelism | None, NotYet()] = Field(default=None, description="Spread of one replica over devices and nodes.")


class Gpu(Part):
    """Devices of one replica."""

    rules = (Rule("!has(self.product) || self.count > 0", "must be left out, or count be 1 or more", field_path=".product"),)

    count: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="Devices of one replica.")
    resource: DeviceResource = Field(default="nvidia.com/gpu", description="The device plugin's resource name.")
    product: Annotated[LabelValue, Field(min_length=1)] | None = Field(
        default=None, description="Only nodes whose label nvidia.com/gpu.product has this value."
    )


class Resources(Part):
    """What one replica needs."""

    rules = (
        Rule(
            "!has(self.memory) || !has(self.sharedMemory) || !isQuantity(string(self.memory)) || !isQuantity(string(self.sharedMemory)) || "
            "!quantity(string(self.sharedMemory)).isGreaterThan(quantity(string(self.memory)))",
            "must not exceed memory, which it counts against",
            field_path=".sharedMemory",
        ),
    )

    gpu: Gpu = Field(default=Gpu(), description="Devices of one replica.")
    cpu: Cores | None = Field(default=None, description="Processor request, such as 500m or 4. One core when left out.")
    memory: Bytes | None = Field(default=None, description="Memory request and limit, such as 16Gi. No limit when left out.")
    shared_memory: Bytes | None = Field(default=None, description="Size of /dev/shm, in memory. 1Gi when a replica has several devices.")
    profile: Annotated[Name | None, NotYet()] = Field(default=None, description="A named set of resources in the chart's values.")


class ColdStart(Part):
    """What happens to requests that arrive while no replica is ready."""

    max_wait: Annotated[Duration, between("1s", "1h")] = Field(
        default=timedelta(minutes=10), description="Longest wait of a held request; then 503 with Retry-After."
    )
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = Field(
        default=100, description="Requests held per gateway; one more gets 503 at once."
    )
    keepalive: Annotated[Duration, between("0s", "5m")] = Field(
        default=timedelta(seconds=15),
        description="Time between signs of life to a waiting streaming client: SSE comments, spaces to Ollama's. 0s sends none.",
    )


class Scaling(Part):
    """How many replicas run."""

    rules = (
        Rule(
            "!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas", "must not be less than minReplicas", field_path=".maxReplicas"
        ),
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        default=1, description="Fewest replicas; 0 stops the last one when idle, and a request wakes it."
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Most replicas. minReplicas, at least 1, when left out."
    )
    target_concurrency: Annotated[int, Field(ge=1, le=10_000)] = Field(
        default=8, description="Requests in flight and queued that one replica is meant to carry."
    )
    scale_down_delay: Annotated[Duration, between("0s", "24h")] = Field(
        default=timedelta(minutes=5), description="How long demand must stay low before a replica is removed."
    )
    mode: Literal["Managed", "External"] = Field(
        default="Managed", description="External leaves the number of replicas to another autoscaler through /scale of the Deployment."
    )
    cold_start: ColdStart = Field(default=ColdStart(), description="Requests while no replica is ready.")


class Canary(Part):
    """A second variant that takes a share of the traffic."""

    weight: Annotated[int, Field(ge=0, le=100)] = Field(description="Percent of the requests.")
    model: Model | None = Field(default=None, description="The variant's model.")
    engine: Engine | None = Field(default=None, description="The variant's engine.")


class Rollout(Part):
    """How a change reaches the pods."""

    strategy: Literal["Auto", "Surge", "Replace"] = Field(
        default="Auto",
        description="Surge starts a new pod before it stops an old one; Replace stops first. Auto replaces where pods hold devices and "
        "surges elsewhere.",
    )
    drain_timeout: Annotated[Duration, between("0s", "1h")] = Field(
        default=timedelta(seconds=60), description="Longest time that a stopping pod may finish its requests in."
    )
    canary: Annotated[Canary | None, NotYet()] = Field(default=None, description="A second variant.")


class Limits(Part):
    """Bounds of one replica. Past them a request is refused with the reason, never dropped."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(default=None, description="Requests worked on at once.")
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(default=256, description="Requests that wait; one more gets 429.")
    queue_timeout: Annotated[Duration, between("1s", "1h")] = Field(
        default=timedelta(seconds=60), description="Longest wait before work begins; then 503."
    )
    request_timeout: Annotated[Duration, between("1s", "24h")] = Field(
        default=timedelta(minutes=10), description="Longest time of a request; then 504."
    )
    max_prompt_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="Longest prompt, in tokens.")
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="Longest answer, in tokens.")


class Generation(Part):
    """Sampling defaults for requests that do not say."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(default=None, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, description="Nucleus.")
    top_k: Annotated[int, Field(ge=0, le=10_000)] | None = Field(default=None, description="Most likely tokens kept; 0 keeps all.")
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        default=None, description="Least probability of a token that is kept, as a share of the likeliest one's; 0 keeps all."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = Field(
        default=None, description="By how much tokens that were there before are less likely; 1 is not at all."
    )
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="New tokens.")
    config: Literal["auto", "none"] = Field(
        default="auto",
        description="Whether the model's generation_config.json says what requests and these fields do not; none leaves it unread.",
    )


class Warmup(Part):
    """Forward passes before readiness."""

    capabilities: Annotated[list[Capability], Field(max_length=8), Keyed()] = Field(
        default=[], description="Capabilities to warm up; all that the model has when left out."
    )
    skip: Annotated[list[Capability], Field(max_length=8), Keyed()] = Field(default=[], description="Capabilities to leave cold.")
    steps: Annotated[int, Field(ge=1, le=100)] = Field(default=1, description="How often each path through the model is run.")
    batch: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Answers that are generated together.")
    memory: Bytes | None = Field(
        default=None, description="Memory that warm-up may add, such as 512Mi; past it larger shapes are left out. No bound when left out."
    )


class Cache(Part):
    """Where downloaded weights are kept between pods."""

    type: Literal["None", "Shared", "Node"] = Field(
        default="None", description="Shared is a ReadWriteMany volume, Node a folder of the node."
    )


class Access(Part):
    """Who may use the model."""

    tenants: Annotated[list[Name], Field(max_length=256)] = Field(default=[], description="Names of Tenants; all when empty.")


class Toleration(Part):
    """A toleration, as in a pod."""

    rules = (
        Rule("self.operator != 'Exists' || !has(self.value)", "must be left out when operator is Exists", field_path=".value"),
        Rule(
            "self.operator != 'Equal' || has(self.key)",
            "is required when operator is Equal",
            field_path=".key",
            reason="FieldValueRequired",
        ),
        Rule(
            "!has(self.tolerationSeconds) || (has(self.effect) && self.effect == 'NoExecute')",
            "needs effect NoExecute",
            field_path=".tolerationSeconds",
        ),
    )

    key: LabelKey | None = Field(default=None, description="The taint's key. Every taint when left out with operator Exists.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How the value is compared.")
    value: LabelValue | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="The taint's effect; all when left out."
    )
    toleration_seconds: Annotated[int, Field(ge=0, le=10_000_000)] | None = Field(
        default=None, description="Seconds that a NoExecute taint is tolerated."
    )


class Pod(Part):
    """Overrides of the pod template."""

    labels: PodLabels = Field(default={}, description="Further labels.")
    annotations: PodAnnotations = Field(default={}, description="Further annotations.")
    node_selector: NodeLabels = Field(default={}, description="Labels that a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = Field(default=[], description="Taints that are tolerated.")
    priority_class_name: Name | None = Field(default=None, description="The pods' PriorityClass.")
    runtime_class_name: Name | None = Field(default=None, description="The pods' RuntimeClass.")
    image_pull_secrets: Annotated[list[Name], Field(max_length=16)] = Field(default=[], description="Secrets for the image's registry.")


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
