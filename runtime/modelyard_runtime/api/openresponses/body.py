"""The body of a response's request, and the chat request that it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, Field, ValidationError, WithJsonSchema
from pydantic_core import PydanticCustomError

from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.api.errors import to_api_error
from modelyard_runtime.api.fields import Body, Ignored, ModelName, Stop, Tokens, invalid, unsupported
from modelyard_runtime.api.openresponses.items import Item, messages_of
from modelyard_runtime.api.openresponses.naming import reworded

_MAX_ITEMS = 4096
_MAX_METADATA = 16
#: Fields that chat requests have too.
_SHARED = (
    *("model", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "logit_bias", "ignore_eos", "chat_template_kwargs", "parallel_tool_calls"),
)
#: What ``include`` may ask for and there is; of the others there is nothing to include.
_LOGPROBS = "message.output_text.logprobs"


def _input(value: Any) -> Any:
    """Returns items: a text is the user's message."""
    if isinstance(value, str):
        return [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise invalid("expected a string, or an array of input items")
    if not value:
        raise invalid("is empty; send a text, or at least one item")
    if len(value) > _MAX_ITEMS:
        raise invalid(f"must have at most {_MAX_ITEMS} element(s)")
    return value


def _stateless(value: Any) -> Any:
    if value is not None:
        text = "this server stores no responses; leave it out, and send the whole conversation in 'input'"
        raise PydanticCustomError("unsupported", "{text}", {"text": text, "code": "unsupported_parameter"})
    return value


def _few(value: Any) -> Any:
    """Refuses many at once, before each of them is looked at."""
    if isinstance(value, dict) and len(value) > _MAX_METADATA:
        raise invalid(f"must have at most {_MAX_METADATA} element(s)")
    return value


Stateless = Annotated[Any, BeforeValidator(_stateless)]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    BeforeValidator(_few),
    Field(max_length=_MAX_METADATA),
]


class TextConfig(Body):
    """The form of the answer's text."""

    format: dict[str, Any] | None = None
    verbosity: Ignored = None


class ReasoningConfig(Body):
    """How the model reasons. Summaries are not made: the reasoning itself is given."""

    effort: Any = None
    summary: Ignored = None
    generate_summary: Ignored = None


class ResponseStreamOptions(Body):
    """Options of a stream."""

    include_obfuscation: Ignored = None


class ResponsesBody(Body):
    """A response's request. ``store`` is accepted and nothing is stored; the answer says so."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("max_tokens", "max_completion_tokens"), "max_output_tokens"),
        "messages": "input",
        "system": "instructions",
        "response_format": "text.format",
        "reasoning_effort": "reasoning.effort",
        "logprobs": "top_logprobs",
    }

    model: ModelName
    input: Annotated[
        list[Item],
        BeforeValidator(_input),
        WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}, "minItems": 1}]}),
    ]
    instructions: str | None = None
    max_output_tokens: Tokens | None = None
    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include: Annotated[list[Annotated[str, Field(max_length=128)]], Field(max_length=16)] | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=1024)] | None = None
    tool_choice: Any = None
    parallel_tool_calls: bool | None = None
    metadata: Metadata | None = None
    store: bool | None = None
    truncation: Annotated[Literal["auto", "disabled"] | None, unsupported("disabled")] = None
    previous_response_id: Stateless = None
    conversation: Stateless = None
    prompt: Stateless = None
    background: Annotated[bool | None, unsupported(False)] = None
    context_management: Annotated[Any, unsupported([])] = None
    max_tool_calls: Annotated[Any, unsupported()] = None
    moderation: Annotated[Any, unsupported()] = None
    access_programs: Annotated[Any, unsupported()] = None
    image: Annotated[Any, unsupported()] = None
    user: Ignored = None
    service_tier: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    # Beside OpenAI's, as in chat completions.
    top_k: Any = None
    min_p: Any = None
    seed: Any = None
    stop: Stop = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    repetition_penalty: Any = None
    logit_bias: Any = None
    ignore_eos: Any = None
    chat_template_kwargs: Any = None

    @property
    def wants_logprobs(self) -> bool:
        """Whether the answer's text comes with log probabilities."""
        return _LOGPROBS in (self.include or ()) or self.top_logprobs is not None

    @property
    def origins(self) -> list[int | None]:
        """For each message of the chat request its item's place; None is the instructions'."""
        return ([None] if self.instructions else []) + [place for place, _ in messages_of(self.input)]

    def to_chat(self) -> ChatBody:
        """Returns the chat request. Raises InvalidRequest in this request's words."""
        try:
            return ChatBody.model_validate({name: value for name, value in self._chat_fields().items() if value is not None})
        except ValidationError as error:
            problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in error.errors()]
            raise reworded(to_api_error(RequestValidationError(problems)), self.origins) from error

    def _chat_fields(self) -> dict[str, Any]:
        instructions = [{"role": "system", "content": self.instructions}] if self.instructions else []
        return {
            **{name: getattr(self, name) for name in _SHARED},
            "messages": [*instructions, *(message for _, message in messages_of(self.input))],
            "max_completion_tokens": self.max_output_tokens,
            "logprobs": self.wants_logprobs or None,
            "top_logprobs": self.top_logprobs,
            "tools": None if self.tools is None else [_nested_tool(tool) for tool in self.tools],
            "tool_choice": _nested_choice(self.tool_choice),
            "response_format": _nested_format(self.text.format if self.text else None),
            "reasoning_effort": self.reasoning.effort if self.reasoning else None,
        }


def _nested_tool(tool: dict[str, Any]) -> dict[str, Any]:
    """Returns a tool as chat has it: the function in a field of its own. Tools of other kinds stay as they are, for chat to refuse."""
    if tool.get("type") != "function":
        return tool
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type" and value is not None}}


def _nested_choice(choice: Any) -> Any:
    if isinstance(choice, dict) and choice.get("type") == "function":
        return {"type": "function", "function": {name: value for name, value in choice.items() if name != "type"}}
    return choice


def _nested_format(chosen: dict[str, Any] | None) -> dict[str, Any] | None:
    if chosen is None or chosen.get("type") != "json_schema":
        return chosen
    return {"type": "json_schema", "json_schema": {name: value for name, value in chosen.items() if name != "type"}}
