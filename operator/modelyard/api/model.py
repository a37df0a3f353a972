"""What is served: the weights, what they may be asked for, and how they are prepared and sampled."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelyard.api.fields import Alias, Bytes, Name, Part, Source
from modelyard.api.markers import Keyed, Rule


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
