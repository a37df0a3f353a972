"""The InferenceModel resource, defined once: `crds/` and the field reference are generated from here.

A field marked `NotYet` has its place in the API and is refused with "not supported yet" until something acts on it. Defaults
are the API server's own: they are written into the stored object, so that `kubectl get -o yaml` shows what is in force.
"""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from modelyard.api.durations import Duration
from modelyard.api.markers import NotYet, OnlyYet, Rule

QUANTITY = Rule("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))", "must be a positive Kubernetes quantity such as 500m, 2 or 16Gi")

Quantity = Annotated[str, Field(min_length=1, max_length=32), QUANTITY]
Text = Annotated[str, Field(max_length=1024)]
Name = Annotated[str, Field(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
Labels = Annotated[dict[str, Text], Field(max_length=64)]
Anything = Annotated[dict[str, Any], Field(max_length=64)]


class Part(BaseModel):
    """A part of a resource: camelCase on the wire, unknown fields refused, values frozen."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


class Capability(StrEnum):
    """What a model can do; each is a family of endpoints."""

    CHAT = "chat"
    VISION = "vision"
    COMPLETIONS = "completions"
    EMBEDDINGS = "embeddings"
    RERANK = "rerank"
    CLASSIFY = "classify"
    TRANSCRIPTION = "transcription"


class Model(Part):
    """What is served."""

    source: Annotated[str, Field(min_length=8, max_length=1024)] = Field(
        description="Where the weights are: hf://org/name[@revision], pvc://claim/path, file:///path (in the image or on the machine) or "
        "builtin://name. s3:// and gs:// are not supported yet."
    )
    capabilities: Annotated[list[Capability], Field(max_length=8), OnlyYet(("chat", "completions", "embeddings"))] = Field(
        default=[], description="What the model may be asked for. Detected from its config.json when left out."
    )
    aliases: Annotated[list[Annotated[str, Field(min_length=1, max_length=253)]], Field(max_length=16)] = Field(
        default=[], description="Further names that clients may put in the request's `model`, such as gpt-4o-mini."
    )
    credentials_secret: Name | None = Field(
        default=None, description="A Secret in the model's namespace whose key `token` is sent to the source, as the Hugging Face hub's access token."
    )
    trust_remote_code: Annotated[bool, NotYet()] = Field(default=False, description="Whether Python code that comes with the weights may run.")


class EngineName(StrEnum):
    """The program that serves the model."""

    TRANSFORMERS = "transformers"
    VLLM = "vllm"
    LLAMACPP = "llamacpp"
    CUSTOM = "custom"


class EnvVar(Part):
    """An environment variable of the runtime's container."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = Field(description="The variable's name.")
    value: Annotated[str, Field(max_length=4096)] = Field(default="", description="The variable's value. For secrets use model.credentialsSecret.")


class Adapter(Part):
    """A LoRA adapter."""

    name: Annotated[str, Field(min_length=1, max_length=63)] = Field(description="The adapter's name; requests route to it as model:adapter.")
    source: Annotated[str, Field(min_length=8, max_length=1024)] = Field(description="Where its weights are, as in model.source.")


class Parallelism(Part):
    """How one replica is spread over devices and nodes."""

    tensor: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Devices that share each layer.")
    pipeline: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Groups of layers, each on devices of its own.")
    nodes: Annotated[int, Field(ge=1, le=64)] = Field(default=1, description="Nodes of one replica.")


class Engine(Part):
    """The program that serves the model, and its arguments."""

    name: Annotated[EngineName, OnlyYet(("transformers",))] = Field(default=EngineName.TRANSFORMERS, description="The engine.")
    image: Annotated[str, Field(min_length=1, max_length=512)] | None = Field(default=None, description="The runtime's image instead of the operator's setting.")
    args: Annotated[list[Text], Field(max_length=64)] = Field(default=[], description="Further arguments of `modelyard-runtime serve`, one word each.")
    env: Annotated[list[EnvVar], Field(max_length=64)] = Field(default=[], description="Further environment variables.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(default="auto", description="Data type of weights; auto asks the device what it computes fastest.")
    quantization: Annotated[Literal["none", "int8", "int4", "fp8"], OnlyYet(("none",))] = Field(default="none", description="Weight quantization at load.")
    max_model_length: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        default=None, description="Longest prompt plus answer, in tokens. The model's own context length when left out."
    )
    max_concurrent_sequences: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, description="Sequences that one replica generates at once.")
    adapters: Annotated[list[Adapter], Field(max_length=32), NotYet()] = Field(default=[], description="LoRA adapters.")
    parallelism: Annotated[Parallelism | None, NotYet()] = Field(default=None, description="Spread of one replica over devices and nodes.")


class Gpu(Part):
    """Devices of one replica."""

    count: Annotated[int, Field(ge=0, le=64)] = Field(default=0, description="Devices of one replica.")
    resource: Annotated[str, Field(min_length=3, max_length=253)] = Field(default="nvidia.com/gpu", description="The device plugin's resource name.")
    product: Annotated[str, Field(min_length=1, max_length=63)] | None = Field(
        default=None, description="Only nodes whose label nvidia.com/gpu.product has this value."
    )


class Resources(Part):
    """What one replica needs."""

    gpu: Gpu = Field(default=Gpu(), description="Devices.")
    cpu: Quantity | None = Field(default=None, description="Processor request, such as 500m or 4. One core when left out.")
    memory: Quantity | None = Field(default=None, description="Memory request and limit, such as 16Gi. No limit when left out.")
    shared_memory: Quantity | None = Field(default=None, description="Size of /dev/shm, in memory. 1Gi when a replica has several devices.")
    profile: Annotated[Name | None, NotYet()] = Field(default=None, description="A named set of resources in the chart's values.")


class ColdStart(Part):
    """What happens to requests that arrive while no replica is ready."""

    max_wait: Duration = Field(default=timedelta(minutes=10), description="Longest wait of a held request; then 503 with Retry-After.")
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = Field(default=100, description="Requests held per gateway; one more gets 503 at once.")
    keepalive: Duration = Field(default=timedelta(seconds=15), description="Time between SSE comments to a waiting streaming client. 0s sends none.")


class Scaling(Part):
    """How many replicas run."""

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(default=1, description="Fewest replicas; 0 stops the last one when idle, and a request wakes it.")
    max_replicas: Annotated[int, Field(ge=1, le=1000)] | None = Field(default=None, description="Most replicas. minReplicas, at least 1, when left out.")
    target_concurrency: Annotated[int, Field(ge=1, le=10_000)] = Field(default=8, description="Requests in flight and queued that one replica is meant to carry.")
    scale_down_delay: Duration = Field(default=timedelta(minutes=5), description="How long demand must stay low before a replica is removed.")
    mode: Literal["Managed", "External"] = Field(default="Managed", description="External leaves the number of replicas to another autoscaler through /scale of the Deployment.")
    cold_start: ColdStart = Field(default=ColdStart(), description="Requests while no replica is ready.")


class Canary(Part):
    """A second variant that takes a share of the traffic."""

    weight: Annotated[int, Field(ge=0, le=100)] = Field(description="Percent of the requests.")
    model: Model | None = Field(default=None, description="The variant's model.")
    engine: Engine | None = Field(default=None, description="The variant's engine.")


class Rollout(Part):
    """How a change reaches the pods."""

    strategy: Literal["Auto", "Surge", "Replace"] = Field(
        default="Auto", description="Surge starts a new pod before it stops an old one; Replace stops first. Auto replaces where pods hold devices and surges elsewhere."
    )
    drain_timeout: Duration = Field(default=timedelta(seconds=60), description="Longest time that a stopping pod may finish its requests in.")
    canary: Annotated[Canary | None, NotYet()] = Field(default=None, description="A second variant.")


class Limits(Part):
    """Bounds of one replica. Past them a request is refused with the reason, never dropped."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(default=None, description="Requests worked on at once.")
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(default=256, description="Requests that wait; one more gets 429.")
    queue_timeout: Duration = Field(default=timedelta(seconds=60), description="Longest wait before work begins; then 503.")
    request_timeout: Duration = Field(default=timedelta(minutes=10), description="Longest time of a request; then 504.")
    max_prompt_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="Longest prompt, in tokens.")
    max_new_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="Longest answer, in tokens.")


class Generation(Part):
    """Sampling defaults for requests that do not say."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(default=None, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1)] | None = Field(default=None, description="Nucleus.")
    top_k: Annotated[int, Field(ge=0, le=10_000)] | None = Field(default=None, description="Most likely tokens kept; 0 keeps all.")
    max_tokens: Annotated[int, Field(ge=1, le=10_000_000)] | None = Field(default=None, description="New tokens.")


class Warmup(Part):
    """Forward passes before readiness."""

    steps: Annotated[int, Field(ge=1, le=100)] = Field(default=1, description="Passes.")
    batch: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Sequences of a pass.")


class Cache(Part):
    """Where downloaded weights are kept between pods."""

    type: Literal["None", "Shared", "Node"] = Field(default="None", description="Shared is a ReadWriteMany volume, Node a folder of the node.")


class Access(Part):
    """Who may use the model."""

    tenants: Annotated[list[Name], Field(max_length=256)] = Field(default=[], description="Names of Tenants; all when empty.")


class Toleration(Part):
    """A toleration, as in a pod."""

    key: Text | None = Field(default=None, description="The taint's key.")
    operator: Literal["Exists", "Equal"] = Field(default="Equal", description="How the value is compared.")
    value: Text | None = Field(default=None, description="The taint's value.")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(default=None, description="The taint's effect; all when left out.")
    toleration_seconds: Annotated[int, Field(ge=0)] | None = Field(default=None, description="Seconds that a NoExecute taint is tolerated.")


class Pod(Part):
    """Overrides of the pod template."""

    labels: Labels = Field(default={}, description="Further labels.")
    annotations: Labels = Field(default={}, description="Further annotations.")
    node_selector: Labels = Field(default={}, description="Labels that a node must have.")
    tolerations: Annotated[list[Toleration], Field(max_length=64)] = Field(default=[], description="Taints that are tolerated.")
    priority_class_name: Name | None = Field(default=None, description="The pods' PriorityClass.")
    runtime_class_name: Name | None = Field(default=None, description="The pods' RuntimeClass.")
    image_pull_secrets: Annotated[list[Name], Field(max_length=16)] = Field(default=[], description="Secrets for the image's registry.")


class InferenceModelSpec(Part):
    """What the user wants."""

    model: Model = Field(description="What is served.")
    engine: Engine = Field(default=Engine(), description="What serves it.")
    resources: Resources = Field(default=Resources(), description="What one replica needs.")
    scaling: Scaling = Field(default=Scaling(), description="How many replicas run.")
    rollout: Rollout = Field(default=Rollout(), description="How a change reaches the pods.")
    routing: Annotated[Literal["LeastLoad", "PrefixAffinity", "RoundRobin"], OnlyYet(("LeastLoad",))] = Field(
        default="LeastLoad", description="How the gateway chooses a replica."
    )
    limits: Limits = Field(default=Limits(), description="Bounds of one replica.")
    generation: Annotated[Generation | None, NotYet()] = Field(default=None, description="Sampling defaults.")
    warmup: Annotated[Warmup | None, NotYet()] = Field(default=None, description="Forward passes before readiness.")
    cache: Annotated[Cache | None, NotYet()] = Field(default=None, description="Where downloaded weights are kept.")
    access: Annotated[Access | None, NotYet()] = Field(default=None, description="Who may use the model.")
    pod: Pod = Field(default=Pod(), description="Overrides of the pod template.")


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
    message: Annotated[str, Field(max_length=32768)] = Field(default="", description="The cause in a sentence, with the pod, the last log line and a remedy.")
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
    cold_start: Annotated[dict[str, float], Field(max_length=16)] = Field(default={}, description="Seconds per phase of the last start: schedule, pull, download, load, warmup.")
    scaling: ScalingStatus = Field(default=ScalingStatus(), description="What the autoscaler did.")


class InferenceModel(BaseModel):
    """A model that Modelyard serves."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    api_version: Literal["modelyard.dev/v1alpha1"] = "modelyard.dev/v1alpha1"
    kind: Literal["InferenceModel"] = "InferenceModel"
    metadata: Metadata
    spec: InferenceModelSpec
    status: InferenceModelStatus = InferenceModelStatus()
