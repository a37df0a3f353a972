"""Parts of an answer as Ollama's messages, with what it took: counts of tokens, and durations in nanoseconds."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import orjson

from modelyard_runtime import strict_json
from modelyard_runtime.api.ollama.lines import line, now
from modelyard_runtime.models.answer import Content, Part, Reasoning, ToolCallArguments, ToolCallStart


@dataclass(frozen=True, slots=True)
class Piece:
    """What one delta brought. ``tokens`` are the answer's so far; ``reason`` is set on the last piece.

    ``logprobs`` are entries as of OpenAI's chats, which Ollama's are too; None when they were not asked for.
    """

    parts: list[Part]
    tokens: int
    reason: str | None = None
    logprobs: list[dict[str, Any]] | None = None


@dataclass(slots=True)
class Clock:
    """When what happened, in monotonic nanoseconds."""

    arrived: int = field(default_factory=time.monotonic_ns)
    loaded: int = 0
    first: int = 0

    def durations(self, prompt_tokens: int, tokens: int) -> dict[str, int]:
        """Returns what the last line of an answer says."""
        end = time.monotonic_ns()
        loaded = self.loaded or end
        first = self.first or end
        return {
            "total_duration": end - self.arrived,
            "load_duration": loaded - self.arrived,
            "prompt_eval_count": prompt_tokens,
            "prompt_eval_duration": first - loaded,
            "eval_count": tokens,
            "eval_duration": end - first,
        }


@dataclass(slots=True)
class Said:
    """What an answer has said: text, thinking, and calls with the JSON of their arguments."""

    content: str = ""
    thinking: str = ""
    calls: list[tuple[ToolCallStart, list[str]]] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)

    def take(self, part: Part) -> None:
        """Adds a part."""
        match part:
            case Content(text):
                self.content += text
            case Reasoning(text):
                self.thinking += text
            case ToolCallStart():
                self.calls.append((part, []))
            case ToolCallArguments(index, text):
                self.calls[index][1].append(text)

    def scored(self) -> dict[str, Any]:
        """Returns the log probabilities that have not been given out."""
        taken, self.logprobs = self.logprobs, []
        return {"logprobs": taken} if taken else {}

    def tool_calls(self) -> list[dict[str, Any]]:
        """Returns the calls; arguments that are no JSON object, as an answer cut short has, are given as they are."""
        return [
            {"id": start.id, "function": {"index": index, "name": start.name, "arguments": _arguments("".join(texts))}}
            for index, (start, texts) in enumerate(self.calls)
        ]


#: Makes what an endpoint says of a text, the thinking before it and the calls.
Shape = Callable[[str, str, list[dict[str, Any]]], dict[str, Any]]


def message(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The shape of ``/api/chat``."""
    more: dict[str, Any] = {"thinking": thinking} if thinking else {}
    if calls:
        more["tool_calls"] = calls
    return {"message": {"role": "assistant", "content": content, **more}}


def response(content: str, thinking: str, calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The shape of ``/api/generate``, which knows no tools."""
    del calls
    return {"response": content, **({"thinking": thinking} if thinking else {})}


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way; close ``pieces`` to cancel it. ``model`` is the name that the client used."""

    model: str
    prompt_tokens: int
    pieces: AsyncGenerator[Piece, None]
    clock: Clock
    shape: Shape

    async def whole(self) -> dict[str, Any]:
        """Returns the complete answer."""
        said, tokens, reason = Said(), 0, "stop"
        async with aclosing(self.pieces):
            async for piece in self.pieces:
                self.clock.first = self.clock.first or time.monotonic_ns()
                for part in piece.parts:
                    said.take(part)
                said.logprobs += piece.logprobs or []
                tokens, reason = piece.tokens, piece.reason or reason
        return self._last(self.shape(said.content, said.thinking, said.tool_calls()) | said.scored(), tokens, reason)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields the answer as it comes; calls of tools come whole, before the last line."""
        called, tokens, reason = Said(), 0, "stop"
        async with aclosing(self.pieces):
            async for piece in self.pieces:
                self.clock.first = self.clock.first or time.monotonic_ns()
                tokens, reason = piece.tokens, piece.reason or reason
                new = Said()
                for part in piece.parts:
                    (new if isinstance(part, Content | Reasoning) else called).take(part)
                called.logprobs += piece.logprobs or []
                if new.content or new.thinking:
                    yield line(self._more(self.shape(new.content, new.thinking, []) | called.scored()))
        if called.calls:
            yield line(self._more(self.shape("", "", called.tool_calls())))
        yield line(self._last(self.shape("", "", []) | called.scored(), tokens, reason))

    def _more(self, said: dict[str, Any]) -> dict[str, Any]:
        return {"model": self.model, "created_at": now(), **said, "done": False}

    def _last(self, said: dict[str, Any], tokens: int, reason: str) -> dict[str, Any]:
        return {**self._more(said), "done": True, "done_reason": reason, **self.clock.durations(self.prompt_tokens, tokens)}


def _arguments(text: str) -> Any:
    try:
        return strict_json.loads(text or "{}")
    except orjson.JSONDecodeError:
        return text
