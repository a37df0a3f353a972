"""Bodies of Ollama's requests.

As elsewhere, what is not known is refused by name. Options that say how Ollama is to load a model change nothing here: a model is
loaded as the server's settings say. They are accepted because clients send them without being asked.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from modelyard_runtime.api.fields import Body, Ignored, ModelName, Penalty, Seed, Stop, invalid, unsupported

_DURATION = re.compile(r"([-+]?)((?:\d{1,9}(?:\.\d{1,9})?(?:ns|us|µs|ms|s|m|h)){1,6})")
_PART = re.compile(r"([\d.]+)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_FORMS = "expected seconds, or a duration such as 5m; -1 keeps the model for ever"


def _seconds(value: Any) -> Any:
    """Returns the seconds of a number or of a duration in Go's words; negative ones mean for ever."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e12):
        return value
    if not isinstance(value, str):
        raise invalid(_FORMS)
    if re.fullmatch(r"[-+]?\d{1,12}", value):
        return float(value)
    match = _DURATION.fullmatch(value)
    if match is None:
        raise invalid(_FORMS)
    seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    return -seconds if match[1] == "-" else seconds


def _template(value: Any) -> Any:
    if value:
        raise invalid("templates come with the model here; leave it out, or send a complete prompt with raw: true")
    return value


KeepAlive = Annotated[
    float | None,
    BeforeValidator(_seconds),
    WithJsonSchema({"anyOf": [{"type": "number"}, {"type": "string", "pattern": _DURATION.pattern}, {"type": "null"}]}),
]
Count = Annotated[int, Field(ge=-2, le=10_000_000)]
Image = Annotated[str, Field(min_length=1)]
Texts = Annotated[list[str], Field(fail_fast=True)]
Format = Annotated[
    dict[str, Any] | Literal["", "json"] | None,
    WithJsonSchema({"anyOf": [{"type": "object"}, {"type": "string", "enum": ["", "json"]}, {"type": "null"}]}),
]
Think = bool | Literal["low", "medium", "high"] | None
Template = Annotated[str | None, AfterValidator(_template)]


class Options(Body):
    """What a request may set of generation; fields of type `Ignored` say how to load a model."""

    num_predict: Count | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    seed: Seed | None = None
    stop: Stop = None
    repeat_penalty: Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    mirostat: Annotated[Any, unsupported(0)] = None
    tfs_z: Annotated[Any, unsupported(1)] = None
    typical_p: Annotated[Any, unsupported(1)] = None
    num_ctx: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    num_keep: Ignored = None
    repeat_last_n: Ignored = None
    penalize_newline: Ignored = None
    mirostat_tau: Ignored = None
    mirostat_eta: Ignored = None
    numa: Ignored = None
    num_batch: Ignored = None
    num_gpu: Ignored = None
    main_gpu: Ignored = None
    low_vram: Ignored = None
    f16_kv: Ignored = None
    logits_all: Ignored = None
    vocab_only: Ignored = None
    use_mmap: Ignored = None
    use_mlock: Ignored = None
    embedding_only: Ignored = None
    num_thread: Ignored = None

    def sampling(self) -> dict[str, Any]:
        """Returns OpenAI's fields for the same thing. No bound, -1 and -2 all mean as long as the context lasts."""
        fields = {
            "max_tokens": self.num_predict if (self.num_predict or 0) > 0 else None,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "min_p": self.min_p,
            "seed": self.seed,
            "stop": self.stop,
            "repetition_penalty": self.repeat_penalty,
            "presence_penalty": self.presence_penalty,
            "frequency_penalty": self.frequency_penalty,
        }
        return {name: value for name, value in fields.items() if value is not None}


class ModelBody(Body):
    """What all requests about a model have."""

    model: ModelName
    keep_alive: KeepAlive = None
    options: Options | None = None


class AnswerBody(ModelBody):
    """What chat and generate share. ``think`` may be a level, for models that know levels."""

    stream: bool | None = None
    format: Format = None
    think: Think = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    truncate: Ignored = None
    shift: Ignored = None

    @model_validator(mode="after")
    def _logprobs_are_on(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise invalid("only allowed with logprobs: true", "top_logprobs")
        return self

    @property
    def wanted_logprobs(self) -> int | None:
        """How many best tokens to show beside each token of the answer; None shows no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def streams(self) -> bool:
        """Whether the answer comes in lines: it does unless it is told not to."""
        return self.stream is not False


class Function(Body):
    """A function that the model called."""

    name: Annotated[str, Field(min_length=1, max_length=256)]
    arguments: dict[str, Any] = Field(default_factory=dict)
    index: Ignored = None
    description: Ignored = None


class ToolCall(Body):
    """A call in an earlier answer."""

    function: Function
    id: Annotated[str, Field(max_length=256)] | None = None
    type: Ignored = None


class Message(Body):
    """A message of a chat. ``tool_name`` says which tool a tool's message is from."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    images: Annotated[list[Image], Field(max_length=64)] | None = None
    tool_calls: Annotated[list[ToolCall], Field(max_length=128)] | None = None
    tool_name: Annotated[str, Field(max_length=256)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None


class ChatBody(AnswerBody):
    """``/api/chat``. Without messages the model is only loaded, or with ``keep_alive`` 0 unloaded."""

    messages: Annotated[list[Message], Field(max_length=4096, fail_fast=True)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None


class GenerateBody(AnswerBody):
    """``/api/generate``. Without a prompt the model is only loaded, or with ``keep_alive`` 0 unloaded."""

    prompt: str | None = None
    system: str | None = None
    images: Annotated[list[Image], Field(max_length=64)] | None = None
    raw: bool | None = None
    template: Template = None
    suffix: Annotated[Any, unsupported("")] = None
    context: Annotated[Any, unsupported([])] = None
    width: Annotated[Any, unsupported(0)] = None
    height: Annotated[Any, unsupported(0)] = None
    steps: Annotated[Any, unsupported(0)] = None

    @model_validator(mode="after")
    def _raw_is_all(self) -> Self:
        if self.raw and (self.system or self.images):
            raise invalid("a raw prompt is complete: leave out system and images", "raw")
        return self


class EmbedBody(ModelBody):
    """``/api/embed``."""

    input: Annotated[str | Texts, WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})]
    truncate: bool | None = None
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


class EmbeddingsBody(ModelBody):
    """``/api/embeddings``, which `/api/embed` has replaced."""

    prompt: str | None = None


class NamedBody(Body):
    """A body that only names a model. Older clients call the field ``name``."""

    model: ModelName

    @model_validator(mode="before")
    @classmethod
    def _once_called_name(cls, value: Any) -> Any:
        if isinstance(value, dict) and "name" in value and not value.get("model"):
            return {"model" if key == "name" else key: field for key, field in value.items() if key != "model"}
        return value


class ShowBody(NamedBody):
    """``/api/show``."""

    verbose: Ignored = None


class PullBody(NamedBody):
    """``/api/pull``."""

    insecure: Annotated[Any, unsupported(False)] = None
    stream: bool | None = None


class DeleteBody(NamedBody):
    """``/api/delete``."""
