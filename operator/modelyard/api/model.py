"""What is served: the weights, what they may be asked for, and how they are prepared and sampled."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelyard.api.durations import Duration, between
from modelyard.api.fields import Alias, Bytes, MediaHost, Name, Part, Source, TemplateVariable, UploadSize
from modelyard.api.markers import Keyed, Rule

#: How models write calls of tools, and reasoning; the runtime knows the same.
ToolParser = Literal["auto", "hermes", "qwen3_coder", "glm", "deepseek", "llama3", "pythonic", "mistral", "harmony", "json"]
ReasoningParser = Literal["auto", "think", "harmony", "none"]


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
    """Sampling defaults for requests that do not say, and how the model's own way of writing is read."""

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
    tool_parser: ToolParser = Field(
        default="auto", description="How the model writes calls of tools; auto tells it from the chat template."
    )
    reasoning_parser: ReasoningParser = Field(
        default="auto", description="How the model writes reasoning; auto tells it from the chat template."
    )
    chat_template_kwargs: Annotated[list[TemplateVariable], Field(max_length=64), Keyed()] = Field(
        default=[],
        description="Further names that requests may set in `chat_template_kwargs`; enable_thinking, thinking and reasoning_effort they "
        "always may.",
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


class Fetch(Part):
    """Images that requests only point to. None are fetched, and clients send data: URLs, where this is left out."""

    hosts: Annotated[list[MediaHost], Field(min_length=1, max_length=256), Keyed()] = Field(
        description="Hosts that images may be fetched from: name, *.domain or *, at ports 80 and 443 or with :port. Only public addresses "
        "are asked."
    )
    timeout: Annotated[Duration, between("1s", "10m")] = Field(
        default=timedelta(seconds=10), description="Longest time to fetch one, redirects included."
    )


class Images(Part):
    """Bounds of images."""

    max_size: UploadSize | None = Field(default=None, description="Largest image file; 16Mi when left out.")
    max_count: Annotated[int, Field(ge=1, le=1000)] | None = Field(
        default=None, description="Images of one request at most; 16 when left out."
    )
    max_pixels: Annotated[int, Field(ge=1, le=89_478_485)] | None = Field(
        default=None, description="Largest image, in pixels, judged before it is decoded; 33554432 when left out."
    )


class Audio(Part):
    """Bounds of recordings."""

    max_size: UploadSize | None = Field(
        default=None, description="Largest audio file; 25Mi when left out. The gateway's bound of all bodies, 32Mi, holds too."
    )
    max_length: Annotated[Duration, between("1s", "24h")] | None = Field(
        default=None, description="Longest recording; 1h when left out. A second takes 32 KB of memory, and twice that while it is decoded."
    )
    timeout: Annotated[Duration, between("1s", "1h")] | None = Field(
        default=None, description="Longest time on the processor to decode one and find speech in it; 1m when left out."
    )


class Media(Part):
    """What images and recordings of requests may be."""

    fetch: Fetch | None = Field(default=None, description="Images that requests only point to.")
    images: Images | None = Field(default=None, description="Bounds of images.")
    audio: Audio | None = Field(default=None, description="Bounds of recordings.")


class Cache(Part):
    """Where downloaded weights are kept between pods."""

    type: Literal["None", "Shared", "Node"] = Field(
        default="None", description="Shared is a ReadWriteMany volume, Node a folder of the node."
    )
