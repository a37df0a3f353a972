"""Settings of the runtime, parsed once in `main` and passed on: each field is a flag and an environment variable.

A field ``max_queue`` is the flag ``--max-queue`` and the variable ``MODELYARD_MAX_QUEUE``; a flag wins. The classes are the groups of
``--help``, in order.
"""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from modelyard.api.durations import Duration
from modelyard.api.model import ReasoningParser, ToolParser
from modelyard.api.names import ENV_PREFIX, HTTP_PORT, METRICS_PORT
from pydantic import AfterValidator, BaseModel, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from modelyard_runtime.media_settings import AudioSettings, MediaSettings
from modelyard_runtime.setting_types import (
    AdapterText,
    Capability,
    Port,
    Positive,
    Size,
    SourceText,
    TemplateVariable,
    Timeout,
    collector_url,
    default_cache,
    split,
)


class ModelSettings(BaseModel):
    """What is served."""

    model: Annotated[tuple[SourceText, ...], NoDecode, split("\n")] = Field(
        default=(),
        max_length=64,
        description="Source of the weights: hf://org/name[@revision], s3://bucket/folder, gs://bucket/folder, "
        "file:///folder-or-file.gguf or builtin://name (repeatable, then as name=source if the source's last part is not the name; "
        "one a line in the environment).",
    )
    served_model_name: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        description="Name that clients put in `model`, for the one model without name=source. The source's last part when left out.",
    )
    capability: Annotated[tuple[Capability, ...], NoDecode, split(",")] = Field(
        default=(),
        description="What the model is for (repeatable). Detected when left out.",
    )


class ComputeSettings(BaseModel):
    """How it is computed."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="Data type of the weights; auto takes what the device computes fastest."
    )
    quantization: Literal["auto", "none", "int8", "int4", "fp8"] = Field(
        default="none",
        description="Weights of a generating model in fewer bits: int8 or int4 (processor, CUDA), fp8 (CUDA); auto is int4 for weights "
        "larger than --quantize-above. Answers change a little.",
    )
    quantize_above: Size = Field(
        default="16Gi", description="Size of a model's weight files up to which --quantization=auto leaves them as they are."
    )
    device_map: Literal["auto", "none"] = Field(
        default="auto", description="auto spreads a generating model that one GPU does not hold over several; none never does."
    )
    device_memory: Size = Field(
        default="85%", description="Memory of a GPU that weights may take where they are spread, as 20Gi, or as a share of what is free."
    )
    kv_cache: Literal["auto", "slots", "paged"] = Field(
        default="auto", description="Where keys and values lie: in contiguous slots (auto on a processor) or in pages (auto on CUDA)."
    )
    cuda_graphs: Literal["auto", "off"] = Field(default="auto", description="Replay steps that only decode from CUDA graphs.")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?|mps)$", description="auto, cpu, cuda, cuda:N or mps.")
    cores: Literal["auto", "shared", "own"] = Field(
        default="auto",
        description="Whether other processes compute on these cores. On its own ones threads wait awake, a tenth faster; on shared ones "
        "that would slow both down many times. auto takes own where the process is bound to some of the machine's cores without a quota.",
    )
    max_model_length: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        default=None, description="Longest prompt plus answer, in tokens. By the model and the memory, 8192 at most, when left out."
    )
    max_concurrent_sequences: Annotated[int, Field(ge=1, le=1024)] | None = Field(default=None, description="Sequences generated at once.")
    adapter: Annotated[tuple[AdapterText, ...], NoDecode, split("\n")] = Field(
        default=(),
        max_length=64,
        description="A LoRA adapter in PEFT's format, as name=source; requests ask for it as model:name (repeatable; one a line in the "
        "environment).",
    )
    kv_cache_tokens: Annotated[int, Field(ge=16, le=1 << 40)] | None = Field(
        default=None,
        description="Tokens that the KV cache holds, of all sequences together. By the memory available when left out. "
        "When it is full, the youngest sequence waits and is computed again.",
    )
    prefix_caching: bool = Field(default=True, description="Keep prompts' keys and values for requests that begin alike.")
    speculative_tokens: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0, description="Tokens per step and sequence guessed from its own text, at most. Answers stay the same; 0 is off."
    )
    engine_step_timeout: Timeout = Field(
        default=timedelta(seconds=120), description="Longest time of one step of the engine; then it is dead, and the process ends."
    )
    max_batch_tokens: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        default=None,
        description="Tokens, padding included, of one forward pass over texts to embed or to judge. 2048 on a processor, 16384 on a GPU "
        "when left out.",
    )
    embedding_cache_bytes: Annotated[int, Field(ge=0, le=1 << 40)] = Field(
        default=32 << 20, description="Memory for the embeddings of texts asked for last, in bytes; 0 keeps none."
    )
    beam_size: Annotated[int, Field(ge=1, le=16)] = Field(default=5, description="Beams that speech is read with; 1 is greedy.")
    report_usage: bool = Field(
        default=True, description="Count tokens in answers to embeddings, rerank, score and classify; false reports 0 in their usage."
    )


class LimitSettings(BaseModel):
    """Bounds; past them a request is refused with the reason."""

    max_concurrency: Annotated[int, Field(ge=1, le=10_000)] | None = Field(
        default=None,
        description="Requests worked on at once, of each capability. max-concurrent-sequences (generation), 64 (texts) or 4 to 16 (speech) "
        "when left out.",
    )
    max_queue: Annotated[int, Field(ge=0, le=100_000)] = Field(
        default=256, description="Requests that wait, of each capability; one more gets 429."
    )
    queue_timeout: Timeout = Field(default=timedelta(seconds=60), description="Longest wait before work begins; then 503.")
    max_prompt_tokens: Positive | None = Field(default=None, description="Longest prompt, in tokens.")
    max_new_tokens: Positive | None = Field(default=None, description="Longest answer, in tokens.")


class GenerationSettings(BaseModel):
    """Generation: what requests that do not say get, winning over the model's generation_config.json; and what they may ask for."""

    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = Field(default=None, description="Sampling temperature.")
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = Field(default=None, description="Nucleus.")
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = Field(default=None, description="Most likely tokens kept; 0 keeps all.")
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = Field(
        default=None, description="Least probability of a token that is kept, as a share of the likeliest one's; 0 keeps all."
    )
    repetition_penalty: Annotated[float, Field(gt=0, le=10, allow_inf_nan=False)] | None = Field(
        default=None, description="By how much tokens that were there before are less likely; 1 is not at all."
    )
    default_max_tokens: Positive | None = Field(
        default=None, description="Longest answer, in tokens. What the context leaves (chat) or 16 (completions) when left out."
    )
    generation_config: Literal["auto", "none"] = Field(
        default="auto", description="Whether the model's generation_config.json says what requests and these settings do not."
    )
    max_choices: Annotated[int, Field(ge=1, le=128)] = Field(default=16, description="Largest `n` and `best_of` of a request.")
    chat_template_kwargs: Annotated[tuple[TemplateVariable, ...], NoDecode, split(",")] = Field(
        default=(),
        max_length=64,
        description="Further names that requests may set in `chat_template_kwargs` (repeatable); enable_thinking, thinking and "
        "reasoning_effort they always may.",
    )
    tool_parser: ToolParser = Field(
        default="auto", description="How the model writes calls of tools; auto tells it from the chat template."
    )
    reasoning_parser: ReasoningParser = Field(
        default="auto", description="How the model writes reasoning; auto tells it from the chat template."
    )
    grammar_timeout: Timeout = Field(
        default=timedelta(seconds=3), description="Longest time on the processor to compile a request's schema or pattern; then 400."
    )


class LifeSettings(BaseModel):
    """A model's warm-up and its end."""

    warmup: Annotated[tuple[Capability, ...], NoDecode, split(",")] = Field(
        default=(), description="Capabilities to warm up; all that the model has when left out (repeatable)."
    )
    warmup_skip: Annotated[tuple[Capability, ...], NoDecode, split(",")] = Field(
        default=(), description="Capabilities to leave cold (repeatable). A model whose capabilities are all left out is ready once loaded."
    )
    warmup_steps: Annotated[int, Field(ge=1, le=100)] = Field(default=1, description="How often each path through the model is run.")
    warmup_batch: Annotated[int, Field(ge=1, le=1024)] = Field(default=1, description="Answers that warm-up generates together.")
    warmup_memory: Size | None = Field(
        default=None,
        description="Memory that warm-up may add, as 512Mi or 10%; past it larger shapes are left out. No bound when left out.",
    )
    idle_unload: Timeout | None = Field(
        default=None, description="Time without a request after which a model is unloaded. Never when left out."
    )


class TrustSettings(BaseModel):
    """What a model's files may do, which flags and files of this machine say, never a request."""

    trust_remote_code: bool = Field(
        default=False,
        description="Run the Python code that comes with the weights of a generating model. It may do all that this process may.",
    )


class OptionSettings(ComputeSettings, LimitSettings, GenerationSettings, LifeSettings):
    """What each model may have of its own: the keys of a catalogue's entry. A group whose fields belong to a model joins these."""


class ManySettings(BaseModel):
    """Several models in one process."""

    catalogue: Path | None = Field(default=None, description="YAML file with the models that may be asked for; see docs/serve.md.")
    lazy: bool = Field(default=False, description="Load the models of --model at their first request, not at start.")
    memory_budget: Size = Field(
        default="80%",
        description="Memory for all models, as 8Gi or 80%: a share of the machine's, the container's or the device's. "
        "The models that were used longest ago make room.",
    )
    failure_cooldown: Timeout = Field(
        default=timedelta(seconds=30), description="Time for which a model whose load failed is not tried again; then 503 says why."
    )


class RequestSettings(BaseModel):
    """Requests, whatever model they name."""

    request_timeout: Timeout = Field(default=timedelta(minutes=10), description="Longest time of a request; then 504.")
    max_body_bytes: Annotated[int, Field(ge=1024, le=1 << 30)] = Field(
        default=16 << 20, description="Largest request body, in bytes; then 413."
    )
    max_buffered_bytes: Annotated[int, Field(ge=1024, le=1 << 40)] = Field(
        default=512 << 20, description="Bodies in memory, of all requests, in bytes; then 503. At least the largest body."
    )
    body_timeout: Timeout = Field(default=timedelta(seconds=30), description="Longest time to receive a body; then 408.")
    drain_timeout: Duration = Field(
        default=timedelta(seconds=60), description="Longest time that requests may take to finish after SIGTERM."
    )
    settle_time: Duration = Field(
        default=timedelta(seconds=2),
        description="Time after SIGTERM in which new requests are still served: load balancers take a moment to look away.",
    )


class KeySettings(BaseModel):
    """Who may ask."""

    api_key_file: Path | None = Field(
        default=None,
        description="File with the keys, one a line, of which requests to the public port need one; /health and /ready need none. "
        "Nobody needs a key when left out.",
    )
    api_key: SecretStr | None = Field(default=None, description="One more such key.", json_schema_extra={"environment_only": True})
    admin_key_file: Path | None = Field(
        default=None, description="The same for /admin on the private port. Whoever reaches that port needs no key when left out."
    )
    admin_key: SecretStr | None = Field(default=None, description="One more such key.", json_schema_extra={"environment_only": True})


class JobSettings(BaseModel):
    """Pulls through /admin/pulls."""

    allow_pull: Annotated[tuple[SourceText, ...], NoDecode, split(",")] = Field(
        default=("builtin://*", "hf://*"),
        max_length=100,
        description="Sources that may be pulled, as patterns such as hf://our-org/* (repeatable; the first one replaces the default).",
    )
    max_pulls: Annotated[int, Field(ge=1, le=64)] = Field(default=2, description="Pulls at once; others wait.")
    state_dir: Path | None = Field(
        default=None, description="Where pulls and the models that came by them are remembered. `state` in the cache when left out."
    )


class NetworkSettings(BaseModel):
    """Where it listens."""

    host: str = Field(default="0.0.0.0", description="Address of both ports.")
    port: Port = Field(default=HTTP_PORT, description="Public port: /v1/*, /health, /ready. 0 takes a free one.")
    ollama_admin: bool = Field(
        default=False,
        description="Lets clients of the Ollama API on the public port pull, delete and unload models, and say how long they are kept.",
    )
    metrics_port: Port = Field(default=METRICS_PORT, description="Private port: /metrics, /progress, /admin. 0 takes a free one.")
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        default=10_000, description="Connections to the public port, as far as the system's bound on open files allows them; then 503."
    )
    stall_timeout: Timeout = Field(
        default=timedelta(seconds=60), description="Longest time that a client may take nothing of its answer; then it is cut off."
    )


class ObservabilitySettings(BaseModel):
    """What others see of the work."""

    vllm_metric_names: bool = Field(
        default=False, description="Shows metrics under vLLM's own names too (vllm:…), for gateways and dashboards that look for those."
    )
    otlp_endpoint: Annotated[str, Field(max_length=2048), AfterValidator(collector_url)] | None = Field(
        default_factory=lambda: os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or None,
        description="OpenTelemetry collector that gets a span of each request, by OTLP over HTTP, such as http://collector:4318. "
        "OTEL_EXPORTER_OTLP_ENDPOINT when left out; no spans without either.",
    )


class StorageSettings(BaseModel):
    """Where weights are kept."""

    cache_dir: Path = Field(default_factory=default_cache, description="Writable cache of downloaded and converted weights.")
    model_dir: Annotated[tuple[Path, ...], NoDecode, split(":")] = Field(
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


def name_of(source: str) -> str:
    """Returns the name that a source gives a model: its last part."""
    return source.split("@", maxsplit=1)[0].rstrip("/").rsplit("/", 1)[-1]


_CONFIG = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid", env_ignore_empty=True)


class ServeSettings(
    ModelSettings,
    OptionSettings,
    TrustSettings,
    ManySettings,
    RequestSettings,
    MediaSettings,
    AudioSettings,
    KeySettings,
    JobSettings,
    NetworkSettings,
    ObservabilitySettings,
    StorageSettings,
    ProcessSettings,
    BaseSettings,
):
    """Settings of `modelyard-runtime serve`: the process's, and those of each model that does not bring its own."""

    model_config = _CONFIG

    @property
    def source(self) -> str:
        """The source of the one model that these settings are of."""
        return self.model[0]

    @property
    def served_name(self) -> str:
        """The name that clients use for that model."""
        return self.served_model_name or name_of(self.source)


class PullSettings(StorageSettings, ProcessSettings, BaseSettings):
    """Settings of `modelyard-runtime pull`."""

    model_config = _CONFIG

    source: str = Field(min_length=1, max_length=1024, description="Source of the weights, as in `serve --model`.")


def groups(settings: type[BaseModel]) -> tuple[type[BaseModel], ...]:
    """Returns the groups that settings are made of, in their order."""
    own = (base for base in settings.__mro__ if issubclass(base, BaseModel) and base.__bases__ == (BaseModel,))
    return tuple(base for base in own if base.model_fields)
