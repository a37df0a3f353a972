"""Field types that the endpoints share: bounds, and what is accepted without effect or refused as not supported."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, ClassVar, Self, TypeVar

import orjson
from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError, core_schema

from modelyard_runtime.engine.base import SamplingParams
from modelyard_runtime.serving.sampling import SamplingDefaults

T = TypeVar("T")
B = TypeVar("B", bound=BaseModel)


class Body(BaseModel):
    """A request's body: strict types, unknown fields refused. ``elsewhere`` are names that others have for fields of this one."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)
    elsewhere: ClassVar[Mapping[str, str]] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, value: Any) -> Any:
        """Refuses the first unknown field alone, since an error for each takes seconds, and says what may have been meant."""
        known = _names_of(cls)
        unknown = next((name for name in value if name not in known), None) if isinstance(value, dict) else None
        if unknown is None:
            return value
        raise PydanticCustomError("extra_forbidden", "{hint}", {"field": unknown, "hint": _hint(unknown, known, cls.elsewhere)})


@cache
def _names_of(kind: type[BaseModel]) -> frozenset[str]:
    """Returns the names that a body's fields have in JSON."""
    return frozenset(info.alias or name for name, info in kind.model_fields.items())


def _hint(unknown: str, known: Set[str], elsewhere: Mapping[str, str]) -> str:
    """Returns what to do about a field that there is not."""
    if unknown in elsewhere:
        return f"Here it is '{elsewhere[unknown]}'."
    close = get_close_matches(unknown, known, 1, 0.8) if len(unknown) <= 64 else []
    return f"Did you mean '{close[0]}'?" if close else "Remove it."


def valid_body(kind: type[B], fields: dict[str, Any]) -> B:
    """Returns a body made from another one's fields. Raises RequestValidationError, as FastAPI does of a body that came by itself."""
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise RequestValidationError([{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]) from None


@dataclass(frozen=True, eq=False)
class _Neutral:
    """Lets a field have its neutral values alone, and says so in the API's document.

    Each is equal to itself alone: `typing` keeps one annotation for all that are equal, and 0 equals False.
    """

    accepted: tuple[object, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.accepted]}

    def _check(self, value: Any) -> Any:
        if value is None or any(value == neutral and isinstance(value, bool) is isinstance(neutral, bool) for neutral in self.accepted):
            return value
        neutral = " or ".join(orjson.dumps(one).decode() for one in self.accepted)
        only = f"; leave it out, or send {neutral}" if neutral else "; leave it out"
        raise PydanticCustomError("unsupported", "{text}", {"text": f"not supported yet{only}", "code": "unsupported_parameter"})


def unsupported(*accepted: object) -> _Neutral:
    """Marks a field that only has its neutral values yet; others are refused, never ignored."""
    return _Neutral(accepted)


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


_BIAS_FORM = 'expected an object from token ids to numbers from -100 to 100, as {"1234": -100}'


def _bias(value: Any) -> Any:
    """Returns the bias by token number; JSON has them as strings."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise invalid(_BIAS_FORM)
    if len(value) > 1024:
        raise invalid("must have at most 1024 element(s)")
    return {_biased_token(key): _bias_value(number) for key, number in value.items()}


def _biased_token(key: Any) -> int:
    if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) <= 9:
        return int(key)
    raise invalid(f"{str(key)[:40]!r} is no token id; {_BIAS_FORM}")


def _bias_value(number: Any) -> float:
    if isinstance(number, bool) or not isinstance(number, int | float) or not -100 <= number <= 100:
        raise invalid(f"{str(number)[:40]} is no number from -100 to 100; {_BIAS_FORM}")
    return float(number)


LogitBias = Annotated[
    dict[int, float] | None,
    BeforeValidator(_bias),
    WithJsonSchema(
        {"anyOf": [{"type": "object", "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100}}, {"type": "null"}]}
    ),
]


class StreamOptions(Body):
    """Options of a stream. ``continuous_usage_stats`` puts the usage so far into every chunk, as vLLM has it."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Ignored = None


class SamplingBody(Body):
    """What chat and text completions share."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("max_new_tokens", "max_output_tokens", "num_predict", "n_predict"), "max_tokens"),
        "repeat_penalty": "repetition_penalty",
    }

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
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    logit_bias: LogitBias = None
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

    @property
    def usage_in_chunks(self) -> bool:
        """Whether each chunk has the usage so far."""
        return bool(self.include_usage and self.stream_options and self.stream_options.continuous_usage_stats)

    def sampling(self, max_tokens: int, defaults: SamplingDefaults) -> SamplingParams:
        """Returns the engine's parameters, ``defaults`` for what the request leaves out. A nucleus of nothing is the likeliest token."""
        temperature, top_p = _or(self.temperature, defaults.temperature), _or(self.top_p, defaults.top_p)
        return SamplingParams(
            temperature=0.0 if top_p == 0 else temperature,
            top_p=top_p or 1.0,
            top_k=max(_or(self.top_k, defaults.top_k), 0),
            min_p=_or(self.min_p, defaults.min_p),
            presence_penalty=_or(self.presence_penalty, 0.0),
            frequency_penalty=_or(self.frequency_penalty, 0.0),
            repetition_penalty=_or(self.repetition_penalty, defaults.repetition_penalty),
            seed=self.seed,
            max_tokens=max_tokens,
            ignore_eos=bool(self.ignore_eos),
            logit_bias=self.logit_bias or {},
            logprobs=self.wanted_logprobs,
        )

    @property
    def wanted_logprobs(self) -> int | None:
        """How many best tokens to show beside each token of the answer; None shows no log probabilities at all."""
        return None


def _or(value: T | None, default: T) -> T:
    return default if value is None else value
