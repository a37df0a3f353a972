"""The body of a chat completion's request."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from modelyard_runtime.api.fields import Body, Ignored, SamplingBody, Tokens, invalid, unsupported


def _text(value: Any) -> Any:
    """Joins text parts; parts of other kinds are refused."""
    if not isinstance(value, list):
        return value
    if not value:
        raise invalid("expected text, or at least one part")
    for part in value:
        if (
            not isinstance(part, dict)
            or part.get("type") != "text"
            or not isinstance(part.get("text"), str)
            or set(part) - {"type", "text"}
        ):
            raise invalid('this model takes text only: send parts of {"type": "text", "text": "…"}')
    return "".join(part["text"] for part in value)


Content = Annotated[
    str,
    BeforeValidator(_text),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "object"}}]}),
]


class Message(Body):
    """A message. What clients copy from an answer of ours (refusal, annotations …) is accepted while it is empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: Ignored = None
    refusal: Annotated[Any, unsupported()] = None
    annotations: Annotated[Any, unsupported([])] = None
    audio: Annotated[Any, unsupported()] = None
    function_call: Annotated[Any, unsupported()] = None
    tool_calls: Annotated[Any, unsupported([])] = None

    def rendered(self) -> dict[str, str]:
        """Returns what a chat template takes; templates know no developers."""
        return {"role": "system" if self.role == "developer" else self.role, "content": self.content}


class ChatBody(SamplingBody):
    """A chat completion's request."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096)]
    max_completion_tokens: Tokens | None = None
    tools: Annotated[Any, unsupported([])] = None
    tool_choice: Annotated[Any, unsupported("none", "auto")] = None
    functions: Annotated[Any, unsupported([])] = None
    function_call: Annotated[Any, unsupported("none", "auto")] = None
    response_format: Annotated[Any, unsupported({"type": "text"})] = None
    logprobs: Annotated[Any, unsupported(False)] = None
    top_logprobs: Annotated[Any, unsupported(0)] = None
    modalities: Annotated[Any, unsupported(["text"])] = None
    audio: Annotated[Any, unsupported()] = None
    reasoning_effort: Annotated[Any, unsupported("none")] = None
    web_search_options: Annotated[Any, unsupported()] = None
    prediction: Ignored = None
    verbosity: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    parallel_tool_calls: Ignored = None
    safety_identifier: Ignored = None
    prompt_cache_key: Ignored = None
    prompt_cache_retention: Ignored = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise invalid("max_tokens and max_completion_tokens differ; send max_completion_tokens alone", "max_completion_tokens")
        return self
