"""Settings of the runtime, parsed once in `main` and passed on: each field is a flag and an environment variable.

A field ``max_queue`` is the flag ``--max-queue`` and the variable ``MODELYARD_MAX_QUEUE``; a flag wins. The classes are the groups of
``--help``, in order.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from modelyard.api.durations import Duration
from modelyard.api.names import ENV_PREFIX, HTTP_PORT, METRICS_PORT
from pydantic import BaseModel, BeforeValidator, Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def _split(separator: str) -> BeforeValidator:
    return BeforeValidator(lambda value: tuple(part for part in value.split(separator) if part) if isinstance(value, str) else value)


def _default_cache() -> Path:
    return Path.home() / ".cache" / "modelyard"


Positive = Annotated[int, Field(ge=1, le=10_000_000)]
Port = Annotated[int, Field(ge=0, le=65_535)]
Timeout = Annotated[Duration, Field(gt=timedelta(0), le=timedelta(days=7))]
Capability = Literal["chat", "completions", "embeddings"]


class ModelSettings(BaseModel):
    """What is served."""

    model: str = Field(
        min_length=1,
        max_length=1024,
        description="Source of the weights: hf://org/name[@revision], file:///folder-or-file.gguf or builtin://name.",
    )
    served_model_name: str | None = Field(
        default=None, min_length=1, max_length=512, description="Name that clients put in `model`. The source's last part when left out."
    )
    capability: Annotated[tuple[Capability, ...], NoDecode, _split(",")] = Field(
        default=(),
        description="What the model may be asked for: chat, completions or embeddings (repeatable). Detected when left out.",
    )


class ComputeSettings(BaseModel):
    """How it is computed."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Data type of the weights; auto takes what the device computes fastest."
    )
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:N or mps.")
    max_model_length: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        default=None, description="Longest prompt plus answer, in tokens. The model's own context length when left out."
    )
    max_concurrent_sequences: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, description="Sequences generated at once.")
    max_batch_tokens: Annotated[int, Field(ge=16, le=10_000_000)] = Field(
        default=8192, description="Tokens, padding included, of one forward pass over texts to embed."
    )


class LimitSettings(BaseModel):
    """Bounds; past them a request is refused with the reason."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None, description="Requests worked on at once. max-concurrent-sequences (generation) or 64 (embeddings) when left out."
    )
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(default=256, description="Requests that wait; one more gets 429.")
    queue_timeout: Timeout = Field(default=timedelta(seconds=60), description="Longest wait before work begins; then 503.")
    request_timeout: Timeout = Field(default=timedelta(minutes=10), description="Longest time of a request; then 504.")
    max_prompt_tokens: Positive | None = Field(default=None, description="Longest prompt, in tokens.")
    max_new_tokens: Positive | None = Field(default=None, description="Longest answer, in tokens.")
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=16 << 20, description="Largest request body, in bytes; then 413."
    )
    body_timeout: Timeout = Field(default=timedelta(seconds=30), description="Longest time to receive a body; then 408.")
    drain_timeout: Duration = Field(
        default=timedelta(seconds=60), description="Longest time that requests may take to finish after SIGTERM."
    )
    settle_time: Duration = Field(
        default=timedelta(seconds=2),
        description="Time after SIGTERM in which new requests are still served: load balancers take a moment to look away.",
    )


MediaHost = Annotated[str, Field(pattern=r"^(\*|(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*)(:[1-9][0-9]{0,4})?$", max_length=300)]


class MediaSettings(BaseModel):
    """What images and other media of requests may be."""

    media_hosts: Annotated[tuple[MediaHost, ...], NoDecode, _split(",")] = Field(
        default=(),
        max_length=1000,
        description=(
            "Hosts that media may be fetched from: name, *.domain or *, at ports 80 and 443 or with :port (repeatable). "
            "Only public addresses are asked. None when left out: clients send data: URLs."
        ),
    )
    max_media_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=16 << 20, description="Largest image or other file, in bytes."
    )
    media_timeout: Timeout = Field(default=timedelta(seconds=10), description="Longest time to fetch one, redirects included.")
    max_image_pixels: Annotated[int, Field(ge=1, le=89_478_485)] = Field(
        default=33_554_432, description="Largest image, in pixels; judged before it is decoded."
    )


class NetworkSettings(BaseModel):
    """Where it listens."""

    host: str = Field(default="0.0.0.0", description="Address of both ports.")
    port: Port = Field(default=HTTP_PORT, description="Public port: /v1/*, /health, /ready. 0 takes a free one.")
    metrics_port: Port = Field(default=METRICS_PORT, description="Private port: /metrics, /progress. 0 takes a free one.")


class StorageSettings(BaseModel):
    """Where weights are kept."""

    cache_dir: Path = Field(default_factory=_default_cache, description="Writable cache of downloaded and converted weights.")
    model_dir: Annotated[tuple[Path, ...], NoDecode, _split(":")] = Field(
        default=(),
        description="Read-only stores, laid out as the cache, that are looked in first (repeatable; colon-separated in the environment).",
    )
    token_file: Path | None = Field(default=None, description="File with the source's access token.")


class ProcessSettings(BaseModel):
    """The process."""

    termination_log: Path | None = Field(
        default=None,
        description="File that gets the cause of a failed start as one line of JSON. /dev/termination-log, where it exists, when left out.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(default="info", description="Least severe log lines that are written.")

    @field_validator("log_level", mode="before")
    @classmethod
    def _lower(cls, value: Any) -> Any:
        return value.lower() if isinstance(value, str) else value


_CONFIG = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)


class ServeSettings(
    ModelSettings, ComputeSettings, LimitSettings, MediaSettings, NetworkSettings, StorageSettings, ProcessSettings, BaseSettings
):
    """Settings of `modelyard-runtime serve`."""

    model_config = _CONFIG

    @property
    def served_name(self) -> str:
        """The name that clients use."""
        return self.served_model_name or self.model.split("@")[0].rstrip("/").rsplit("/", 1)[-1]


class PullSettings(StorageSettings, ProcessSettings, BaseSettings):
    """Settings of `modelyard-runtime pull`."""

    model_config = _CONFIG

    source: str = Field(min_length=1, max_length=1024, description="Source of the weights, as in `serve --model`.")


SERVE_GROUPS: tuple[type[BaseModel], ...] = (
    ModelSettings,
    ComputeSettings,
    LimitSettings,
    MediaSettings,
    NetworkSettings,
    StorageSettings,
    ProcessSettings,
)
PULL_GROUPS: tuple[type[BaseModel], ...] = (StorageSettings, ProcessSettings)
