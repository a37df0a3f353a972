"""Ollama's requests as OpenAI's, so that one path serves both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from modelyard.api.errors import InvalidRequest

from modelyard_runtime.api.chat_body import ChatBody as OpenAIChat
from modelyard_runtime.api.fields import SamplingBody, valid_body
from modelyard_runtime.api.ollama import bodies

_NEEDS_CHAT = "'{}' needs a model with a chat template and a prompt that is not raw. Leave it out."


def chat(body: bodies.ChatBody) -> OpenAIChat:
    """Returns a chat request. Raises RequestValidationError on what this server does not support."""
    more = {"tools": body.tools} if body.tools else {}
    return _chat(body, {"messages": messages(body.messages or []), **more})


def generation(body: bodies.GenerateBody) -> OpenAIChat:
    """Returns a chat request of one turn. Raises RequestValidationError."""
    turns: list[dict[str, Any]] = [{"role": "system", "content": body.system}] if body.system else []
    turns.append({"role": "user", "content": _content(body.prompt or "", body.images)})
    return _chat(body, {"messages": turns})


def completion(body: bodies.GenerateBody) -> SamplingBody:
    """Returns what a request says of sampling, for a prompt that is complete. Raises RequestValidationError."""
    if body.format:
        raise InvalidRequest(_NEEDS_CHAT.format("format"), param="format")
    if body.think:
        raise InvalidRequest(_NEEDS_CHAT.format("think"), param="think")
    return valid_body(SamplingBody, {"model": body.model, **(body.options.sampling() if body.options else {})})


def messages(given: Sequence[bodies.Message]) -> list[dict[str, Any]]:
    """Returns OpenAI's messages. Calls there have ids, by which a tool's messages name the call that they answer."""
    open_calls: list[tuple[str, str]] = []
    turns: list[dict[str, Any]] = []
    for number, message in enumerate(given):
        turn: dict[str, Any] = {"role": message.role, "content": _content(message.content or "", message.images)}
        if message.tool_calls:
            calls = [(call.id or f"call_{number}_{index}", call.function) for index, call in enumerate(message.tool_calls)]
            open_calls += [(id_, function.name) for id_, function in calls]
            turn["tool_calls"] = [_call(id_, function) for id_, function in calls]
        if message.role == "tool":
            turn["tool_call_id"] = message.tool_call_id or _answered(open_calls, message.tool_name) or f"call_{number}"
        if message.thinking and message.role == "assistant":
            turn["reasoning_content"] = message.thinking
        turns.append(turn)
    return turns


def _answered(open_calls: list[tuple[str, str]], name: str | None) -> str | None:
    """Takes out the first call that a tool's message answers: of that tool, or the first one where the message names none."""
    found = next((call for call in open_calls if name in {None, call[1]}), None)
    if found is None:
        return None
    open_calls.remove(found)
    return found[0]


def _call(id_: str, function: bodies.Function) -> dict[str, Any]:
    return {"id": id_, "type": "function", "function": {"name": function.name, "arguments": json.dumps(function.arguments)}}


def _content(text: str, images: Sequence[str] | None) -> str | list[dict[str, Any]]:
    if not images:
        return text
    # What an image is, its bytes say; the media type in a data: URL is not looked at.
    parts = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}} for image in images]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _chat(body: bodies.AnswerBody, own: dict[str, Any]) -> OpenAIChat:
    options = body.options.sampling() if body.options else {}
    more = _format(body.format) | _think(body.think) | _logprobs(body)
    return valid_body(OpenAIChat, {"model": body.model, **own, **options, **more})


def _logprobs(body: bodies.AnswerBody) -> dict[str, Any]:
    return {"logprobs": True, "top_logprobs": body.wanted_logprobs} if body.logprobs else {}


def _format(form: bodies.Format) -> dict[str, Any]:
    if not form:
        return {}
    if form == "json":
        return {"response_format": {"type": "json_object"}}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "format", "schema": form}}}


def _think(think: bodies.Think) -> dict[str, Any]:
    """Returns the variables by which templates turn thinking on and off; those that know no levels leave theirs alone."""
    if think is None:
        return {}
    level = {} if isinstance(think, bool) else {"reasoning_effort": think}
    return {"chat_template_kwargs": {"enable_thinking": bool(think), **level}}
