"""``/v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from modelyard_runtime.api import sse
from modelyard_runtime.api.access import generation
from modelyard_runtime.api.fields import Body, Ignored, SamplingBody, Tokens, invalid, unsupported
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.api.usage import prefetch, usage
from modelyard_runtime.engine.base import GenerationRequest
from modelyard_runtime.models.chat import TextDelta

router = APIRouter(route_class=StrictRoute)


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


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatBody) -> Response:
    """Answers a conversation, whole or as a stream."""
    service = await generation(request, body.model, "chat")
    messages = [message.rendered() for message in body.messages]
    prompt = await service.encode_chat(messages)
    room = service.room(prompt, body.max_completion_tokens or body.max_tokens, prompt_param="messages")
    deltas = service.generate(GenerationRequest(request.state.request_id, prompt, body.sampling(room)), body.stop or [])
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    if body.stream:
        return sse.EventStream(_stream(head | {"object": "chat.completion.chunk"}, await prefetch(deltas), len(prompt), body.include_usage))
    return json_response(await _whole(head | {"object": "chat.completion"}, deltas, len(prompt)))


async def _whole(head: dict[str, Any], deltas: AsyncGenerator[TextDelta, None], prompt_tokens: int) -> dict[str, Any]:
    parts, tokens, reason = [], 0, None
    async with aclosing(deltas) as stream:
        async for delta in stream:
            parts.append(delta.text)
            tokens = delta.completion_tokens
            reason = delta.finish_reason or reason
    message = {"role": "assistant", "content": "".join(parts), "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
    return {**head, "choices": [choice], "usage": usage(prompt_tokens, tokens)}


async def _stream(
    head: dict[str, Any], deltas: AsyncGenerator[TextDelta, None], prompt_tokens: int, include_usage: bool
) -> AsyncIterator[bytes]:
    tail = {"usage": None} if include_usage else {}

    def chunk(delta: dict[str, str], reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse.event({**head, "choices": [choice], **tail})

    tokens, reason = 0, None
    async with aclosing(deltas) as stream:
        yield chunk({"role": "assistant", "content": ""})
        async for delta in stream:
            tokens = delta.completion_tokens
            reason = delta.finish_reason or reason
            if delta.text:
                yield chunk({"content": delta.text})
    yield chunk({}, reason)
    if include_usage:
        yield sse.event({**head, "choices": [], "usage": usage(prompt_tokens, tokens)})
