"""Parts of an answer as OpenAI's chunks, and as a whole message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard_runtime.api import sse
from modelyard_runtime.api.conversation import Conversation, Step
from modelyard_runtime.api.usage import usage
from modelyard_runtime.engine.base import FinishReason
from modelyard_runtime.models.answer import Content, Part, Reasoning, ToolCallArguments, ToolCallStart


@dataclass(slots=True)
class _Choice:
    """One choice so far."""

    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[ToolCallStart, list[str]]] = field(default_factory=list)
    tokens: int = 0
    finish_reason: str | None = None

    def add(self, step: Step) -> None:
        """Takes a step in."""
        for part in step.parts:
            self._add(part)
        self.tokens = step.completion_tokens
        if step.finish_reason is not None:
            self.finish_reason = "tool_calls" if self.calls and step.finish_reason is FinishReason.STOP else step.finish_reason

    def _add(self, part: Part) -> None:
        match part:
            case Content(text):
                self.content.append(text)
            case Reasoning(text):
                self.reasoning.append(text)
            case ToolCallStart():
                self.calls.append((part, []))
            case ToolCallArguments(index, text):
                self.calls[index][1].append(text)

    def message(self) -> dict[str, Any]:
        """Returns OpenAI's message; content is null where there are only calls."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self.content), "refusal": None}
        if self.reasoning:
            message["reasoning_content"] = "".join(self.reasoning)
        if self.calls:
            message["content"] = message["content"] or None
            message["tool_calls"] = [
                {"id": start.id, "type": "function", "function": {"name": start.name, "arguments": "".join(texts)}}
                for start, texts in self.calls
            ]
        return message


async def whole(head: dict[str, Any], conversation: Conversation) -> dict[str, Any]:
    """Returns the complete answer."""
    choices = [_Choice() for _ in range(conversation.choices)]
    async with aclosing(conversation.steps) as steps:
        async for step in steps:
            choices[step.choice].add(step)
    answers = [
        {"index": index, "message": choice.message(), "logprobs": None, "finish_reason": choice.finish_reason}
        for index, choice in enumerate(choices)
    ]
    return {**head, "choices": answers, "usage": usage(conversation.prompt_tokens, sum(choice.tokens for choice in choices))}


async def stream(head: dict[str, Any], conversation: Conversation, include_usage: bool) -> AsyncIterator[bytes]:
    """Yields the answer's chunks as events: the role, the parts as they come, the reason of the end, then the usage if asked for."""
    tail = {"usage": None} if include_usage else {}

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
        return sse.event({**head, "choices": [choice], **tail})

    choices = [_Choice() for _ in range(conversation.choices)]
    async with aclosing(conversation.steps) as steps:
        for index in range(len(choices)):
            yield chunk(index, {"role": "assistant", "content": ""})
        async for step in steps:
            choice = choices[step.choice]
            choice.add(step)
            for part in step.parts:
                yield chunk(step.choice, _delta(part))
            if step.finish_reason is not None:
                yield chunk(step.choice, {}, choice.finish_reason)
    if include_usage:
        yield sse.event({**head, "choices": [], "usage": usage(conversation.prompt_tokens, sum(choice.tokens for choice in choices))})


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case ToolCallStart(index, id_, name):
            return {"tool_calls": [{"index": index, "id": id_, "type": "function", "function": {"name": name, "arguments": ""}}]}
        case ToolCallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}
