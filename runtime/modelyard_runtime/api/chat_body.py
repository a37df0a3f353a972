"""The body of a chat completion's request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, ValidationInfo, WithJsonSchema, field_validator, model_validator
from pydantic_core import PydanticKnownError

from modelyard_runtime.api.fields import Body, Ignored, SamplingBody, Tokens, invalid, unsupported
from modelyard_runtime.api.tools import ResponseFormat, Tool, ToolCalls, ToolChoice, Tools, replaced_by
from modelyard_runtime.models.prompt import Ending, Picture


@dataclass(frozen=True, slots=True)
class Image:
    """An image part of a message."""

    url: str


Parts = tuple[str | Image, ...]


def _content(value: Any) -> Any:
    """Joins text parts; with images among them the parts stay apart."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise PydanticKnownError("string_type")
    if not value:
        raise invalid("expected text, or at least one part")
    parts = tuple(_part(part, index) for index, part in enumerate(value))
    return parts if any(isinstance(part, Image) for part in parts) else "".join(map(str, parts))


#: Kinds of parts, each of which has its value in a field of the kind's name. A refusal is part of an answer that is sent back.
_KINDS = ("text", "refusal", "image_url")
#: What parts may say of caches, OpenAI's name and Anthropic's: nothing here depends on it, since every prefix is kept.
_HINTS = ("prompt_cache_breakpoint", "cache_control")


def _part(part: Any, index: int) -> str | Image:
    kind = part.get("type") if isinstance(part, dict) else None
    value = part.get(kind) if kind in _KINDS else None
    if isinstance(value, str) and kind != "image_url":
        _no_more(part, {"type", kind, *_HINTS}, index)
        return value
    if isinstance(value, dict) and isinstance(value.get("url"), str):
        _no_more(part, {"type", kind, *_HINTS}, index)
        _no_more(value, {"url", "detail"}, index)
        if value.get("detail") not in {None, "auto", "low", "high", "original"}:
            raise invalid(f"part {index}: 'detail' must be auto, low, high or original")
        return Image(value["url"])
    forms = '{"type": "text", "text": "…"} or {"type": "image_url", "image_url": {"url": "…"}}'
    raise invalid(f"part {index}: expected {forms}; no other parts are supported")


def _no_more(part: dict[str, Any], known: set[Any], index: int) -> None:
    for name in part:
        if name not in known:
            raise invalid(f"part {index}: {name[:64]!r} is not supported; leave it out")


_PART = {"type": "object", "required": ["type"], "properties": {"type": {"enum": list(_KINDS)}}}
Content = Annotated[
    str | Parts,
    BeforeValidator(_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "minItems": 1, "items": _PART}]}),
]


class Message(Body):
    """A message. What clients copy from an answer of ours (refusal, annotations …) is accepted while it is empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    refusal: Annotated[Any, unsupported()] = None
    annotations: Annotated[Any, unsupported([])] = None
    audio: Annotated[Any, unsupported()] = None
    function_call: Annotated[Any, unsupported()] = None
    tool_calls: ToolCalls | None = None
    tool_call_id: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _content_is_not_all(cls, value: Any) -> Any:
        if not isinstance(value, dict) or value.get("role") != "assistant" or value.get("content") is not None:
            return value
        said = any(value.get(name) for name in ("tool_calls", "reasoning_content", "reasoning"))
        return {**value, "content": ""} if said else value

    @model_validator(mode="after")
    def _parts_suit_the_role(self) -> Self:
        for name in ("tool_calls", "reasoning_content", "reasoning"):
            if getattr(self, name) and self.role != "assistant":
                raise invalid(f"only messages of the assistant's have '{name}'")
        if (self.tool_call_id is not None) is not (self.role == "tool"):
            raise invalid("a message of role 'tool', and no other, names the call that it answers in 'tool_call_id'")
        return self

    @field_validator("content")
    @classmethod
    def _images_are_the_users(cls, content: str | Parts, info: ValidationInfo) -> str | Parts:
        if not isinstance(content, str) and info.data.get("role") not in {None, "user"}:
            raise invalid("only messages of the user's may hold images: send text")
        return content

    def rendered(self) -> dict[str, Any]:
        """Returns what a chat template takes; templates know no developers."""
        role = "system" if self.role == "developer" else self.role
        content: Any = self.content
        if not isinstance(content, str):
            content = [{"type": "text", "text": part} if isinstance(part, str) else {"type": "image"} for part in content]
        more = {
            "name": self.name,
            "tool_calls": [call.model_dump(exclude={"index"}) for call in self.tool_calls or ()],
            "tool_call_id": self.tool_call_id,
            "reasoning_content": self.reasoning_content or self.reasoning,
        }
        return {"role": role, "content": content} | {name: value for name, value in more.items() if value}


class ChatBody(SamplingBody):
    """A chat completion's request."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **SamplingBody.elsewhere,
        **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs"), "response_format"),
        **dict.fromkeys(("enable_thinking", "think", "thinking"), "chat_template_kwargs.enable_thinking"),
        **dict.fromkeys(("prompt", "input"), "messages"),
        "reasoning": "reasoning_effort",
        "best_of": "n",
    }

    messages: Annotated[list[Message], Field(min_length=1, max_length=4096, fail_fast=True)]
    max_completion_tokens: Tokens | None = None
    tools: Tools | None = None
    tool_choice: ToolChoice | None = None
    functions: Annotated[Any, replaced_by("tools")] = None
    function_call: Annotated[Any, replaced_by("tool_choice")] = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    modalities: Annotated[Any, unsupported(["text"])] = None
    audio: Annotated[Any, unsupported()] = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    web_search_options: Annotated[Any, unsupported()] = None
    prediction: Ignored = None
    verbosity: Ignored = None
    metadata: Ignored = None
    store: Ignored = None
    service_tier: Ignored = None
    parallel_tool_calls: bool | None = None
    safety_identifier: Ignored = None
    moderation: Annotated[Any, unsupported()] = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.max_tokens and self.max_completion_tokens and self.max_tokens != self.max_completion_tokens:
            raise invalid("max_tokens and max_completion_tokens differ; send max_completion_tokens alone", "max_completion_tokens")
        return self

    @model_validator(mode="after")
    def _logprobs_are_on(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise invalid("only allowed with logprobs: true", "top_logprobs")
        return self

    @model_validator(mode="after")
    def _choice_is_among_tools(self) -> Self:
        names = [tool.function.name for tool in self.tools or ()]
        if len(set(names)) < len(names):
            raise invalid("two tools have the same name; a call could mean either", "tools")
        if self.tool_choice not in {None, "none", "auto"} and not names:
            raise invalid("only allowed with tools", "tool_choice")
        if self.tool_choice and self.tool_choice.startswith("=") and self.tool_choice[1:] not in names:
            raise invalid(f"names the function '{self.tool_choice[1:65]}', which is not among the tools", "tool_choice")
        return self

    @model_validator(mode="after")
    def _schema_is_there(self) -> Self:
        form = self.response_format
        if form is not None and (form.json_schema is not None) is not (form.type == "json_schema"):
            raise invalid("there is a 'json_schema' with type json_schema, and with no other", "response_format.json_schema")
        return self

    @model_validator(mode="after")
    def _one_ending(self) -> Self:
        if self.continue_final_message and self.add_generation_prompt:
            raise invalid("only allowed without add_generation_prompt: an answer goes on or begins", "continue_final_message")
        if self.continue_final_message and self.messages[-1].role != "assistant":
            raise invalid("needs a last message of the assistant's to go on with", "continue_final_message")
        return self

    @property
    def callable_tools(self) -> list[Tool]:
        """The tools that the model may call; with a named choice that one alone."""
        if self.tool_choice == "none":
            return []
        return [tool for tool in self.tools or () if self.tool_choice in {None, "auto", "required", "=" + tool.function.name}]

    @property
    def pictures(self) -> list[Picture]:
        """The images of all messages, in order."""
        return [
            Picture(part.url, f"messages[{index}].content[{place}].image_url.url")
            for index, message in enumerate(self.messages)
            if not isinstance(message.content, str)
            for place, part in enumerate(message.content)
            if isinstance(part, Image)
        ]

    @property
    def ending(self) -> Ending:
        """How the prompt ends. Unless told otherwise, a last message of the assistant's is the beginning of the answer."""
        begun = self.messages[-1].role == "assistant"
        if self.continue_final_message or (begun and self.continue_final_message is None and self.add_generation_prompt is None):
            return Ending.CONTINUE
        return Ending.COMPLETE if self.add_generation_prompt is False else Ending.CUE

    @property
    def wanted_logprobs(self) -> int | None:
        """How many best tokens to show beside each token of the answer; None shows no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def limit(self) -> tuple[int | None, str]:
        """The longest answer asked for, in tokens, and the field that says so."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"
