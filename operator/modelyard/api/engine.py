"""The program that serves a model, and how it computes."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from modelyard.api.fields import Argument, Bytes, CacheSize, Image, Part, Source, VariableName, text
from modelyard.api.markers import Keyed, NotYet, OnlyYet, Rule


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
        Rule(
            "!has(self.kvCacheTokens) || !has(self.maxModelLength) || self.kvCacheTokens >= self.maxModelLength",
            "must not be less than maxModelLength: it holds one sequence at least",
            field_path=".kvCacheTokens",
        ),
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
    kv_cache_tokens: Annotated[int, Field(ge=16, le=1 << 40)] | None = Field(
        default=None, description="Tokens that the KV cache of one replica holds, of all sequences together. By the memory when left out."
    )
    prefix_caching: bool = Field(default=True, description="Whether prompts' keys and values are kept for requests that begin alike.")
    speculative_tokens: Annotated[int, Field(ge=0, le=16)] = Field(
        default=0,
        description="Tokens per step and sequence guessed from its own text, at most. Answers stay the same; 0 is off.",
    )
    max_batch_tokens: Annotated[int, Field(ge=16, le=10_000_000)] | None = Field(
        default=None,
        description="Tokens, padding included, of one forward pass over texts to embed or to judge. 2048 on a processor, 16384 on a GPU "
        "when left out.",
    )
    embedding_cache: CacheSize | None = Field(
        default=None, description="Memory for the embeddings of texts asked for last; 0 keeps none, 32Mi when left out."
    )
    report_usage: bool = Field(
        default=True, description="Whether tokens are counted in answers to embeddings, rerank, score and classify; else they say 0."
    )
    beam_size: Annotated[int, Field(ge=1, le=16)] | None = Field(
        default=None, description="Beams that speech is read with; 1 is greedy, 5 when left out."
    )
    vllm_metric_names: bool = Field(
        default=False, description="Whether metrics are shown under vLLM's own names too, for gateways and dashboards that look for those."
    )
    adapters: Annotated[list[Adapter], Field(max_length=32), Keyed("name")] = Field(
        default=[], description="LoRA adapters, in PEFT's format."
    )
    parallelism: Annotated[Parallelism | None, NotYet()] = Field(default=None, description="Spread of one replica over devices and nodes.")
