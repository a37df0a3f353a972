"""Field types that the endpoints share: bounds, and what is accepted without effect or refused as not supported."""

from __future__ import annotations

from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from modelyard_runtime.engine.base import SamplingParams

T = TypeVar("T")


class Body(BaseModel):
    """A request's body: strict types, unknown fields refused."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def unsupported(*accepted: object) -> AfterValidator:
    """Marks a field that only has its neutral values yet; others are refused, never ignored."""

    def check(value: Any) -> Any:
        if value is None or any(value == neutral and type(value) is type(neutral) for neutral in accepted):
            return value
        only = f"; leave it out, or send {' or '.join(map(repr, accepted))}" if accepted else "; leave it out"
        raise PydanticCustomError("unsupported", "{text}", {"text": f"not supported yet{only}", "code": "unsupported_parameter"})

    return AfterValidator(check)


def invalid(text: str, param: str = "") -> PydanticCustomError:
    """Returns an error with the words that a client sees. ``param`` names the field where the error is not raised at one."""
    return PydanticCustomError("invalid_value", "{text}", {"text": text, "param": param})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


#: A field that changes nothing here: bookkeeping of the client's own.
Ignored = Any

ModelName = Annotated[str, Field(min_length=1, max_length=1024)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
Stop = Annotated[
    Annotated[list[StopString], Field(max_length=16)] | None,
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 16}, {"type": "null"}]}),
]
Tokens = Annotated[int, Field(ge=1, le=10_000_000)]
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class SamplingBody(Body):
    """What chat and text completions share."""

    model: ModelName
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=1_000_000)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=10, allow_inf_nan=False)] | None = None
    seed: Seed | None = None
    stop: Stop = None
    ignore_eos: bool | None = None
    n: Annotated[int | None, unsupported(1)] = None
    logit_bias: Annotated[dict[str, Any] | None, unsupported({})] = None
    user: Ignored = None

    @model_validator(mode="after")
    def _options_need_stream(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise invalid("only allowed with stream: true", "stream_options")
        return self

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, max_tokens: int) -> SamplingParams:
        """Returns the engine's parameters. A nucleus of nothing is the likeliest token."""
        greedy = self.temperature == 0 or self.top_p == 0
        return SamplingParams(
            temperature=0.0 if greedy else _or(self.temperature, 1.0),
            top_p=_or(self.top_p, 1.0) or 1.0,
            top_k=max(_or(self.top_k, 0), 0),
            min_p=_or(self.min_p, 0.0),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            repetition_penalty=_or(self.repetition_penalty, 1.0),
            seed=self.seed,
            max_tokens=max_tokens,
            ignore_eos=bool(self.ignore_eos),
        )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
