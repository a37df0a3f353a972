"""Parts of an answer as OpenAI's chunks, and as a whole message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from modelyard_runtime.api import sse
from modelyard_runtime.api.conversation import Conversation, Step, Tally
from modelyard_runtime.api.logprobs import Spelling, chat_entries
from modelyard_runtime.api.usage import usage
from modelyard_runtime.engine.base import FinishReason
from modelyard_runtime.models.answer import Content, Part, Reasoning, ToolCallArguments, ToolCallStart


@dataclass(slots=True)
class _Choice:
    """One choice so far. ``logprobs`` are entries, None when they were not asked for."""

    logprobs: list[dict[str, Any]] | None = None
    content: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    calls: list[tuple[ToolCallStart, list[str]]] = field(default_factory=list)
    tally: Tally = field(default_factory=Tally)

    def add(self, step: Step, spelling: Spelling) -> None:
        """Takes a step in."""
        for part in step.parts:
            self._add(part)
        if self.logprobs is not None:
            self.logprobs += chat_entries(step.delta.tokens, spelling)
        self.tally.add(step)

    @property
    def finish_reason(self) -> str | None:
        """Why it ended, in OpenAI's words; None while it goes on."""
        reason = self.tally.finish_reason
        return "tool_calls" if self.calls and reason is FinishReason.STOP else reason

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

    def taken_logprobs(self) -> dict[str, Any] | None:
        """Returns the entries since the last call, in OpenAI's shape."""
        if self.logprobs is None:
            return None
        taken, self.logprobs = self.logprobs, []
        return {"content": taken, "refusal": None}


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A conversation's answer in OpenAI's shapes. ``head`` has what every chunk repeats: id, created, model, fingerprint."""

    head: dict[str, Any]
    conversation: Conversation
    spelling: Spelling
    logprobs: bool = False
    include_usage: bool = False
    usage_in_chunks: bool = False

    async def whole(self) -> dict[str, Any]:
        """Returns the complete answer."""
        choices = self._choices()
        async with aclosing(self.conversation.steps) as steps:
            async for step in steps:
                choices[step.choice].add(step, self.spelling)
        answers = [
            {"index": index, "message": choice.message(), "logprobs": choice.taken_logprobs(), "finish_reason": choice.finish_reason}
            for index, choice in enumerate(choices)
        ]
        return {**self.head, "object": "chat.completion", "choices": answers, "usage": self._usage(choices)}

    async def stream(self) -> AsyncIterator[bytes]:
        """Yields the answer's chunks as events: the roles, the parts as they come, the reasons of the ends, then the usage if asked for."""
        choices = self._choices()
        async with aclosing(self.conversation.steps) as steps:
            for index in range(len(choices)):
                yield self._chunk(choices, index, {"role": "assistant", "content": ""})
            async for step in steps:
                choice = choices[step.choice]
                choice.add(step, self.spelling)
                for part in step.parts:
                    yield self._chunk(choices, step.choice, _delta(part), choice.taken_logprobs())
                if choice.finish_reason is not None:
                    yield self._chunk(choices, step.choice, {}, choice.taken_logprobs(), choice.finish_reason)
        if self.include_usage:
            yield sse.event({**self._chunk_head, "choices": [], "usage": self._usage(choices)})

    def _choices(self) -> list[_Choice]:
        return [_Choice([] if self.logprobs else None) for _ in range(self.conversation.choices)]

    def _usage(self, choices: list[_Choice]) -> dict[str, Any]:
        return usage(
            self.conversation.prompt_tokens,
            sum(choice.tally.tokens for choice in choices),
            cached_tokens=choices[0].tally.cached_tokens,
            reasoning_tokens=sum(choice.tally.reasoning_tokens for choice in choices),
        )

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return {**self.head, "object": "chat.completion.chunk"}

    def _chunk(
        self,
        choices: list[_Choice],
        index: int,
        delta: dict[str, Any],
        logprobs: dict[str, Any] | None = None,
        reason: str | None = None,
    ) -> bytes:
        chunk = {**self._chunk_head, "choices": [{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]}
        if self.include_usage:
            chunk["usage"] = self._usage(choices) if self.usage_in_chunks else None
        return sse.event(chunk)


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
