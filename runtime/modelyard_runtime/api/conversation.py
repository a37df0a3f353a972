"""From a chat request to the steps of its answer: what chat completions and responses share."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.engine.base import FinishReason, GenerationRequest, TokenEvent
from modelyard_runtime.models.answer import AnswerParser, Part, PlainParser
from modelyard_runtime.models.chat import TextDelta
from modelyard_runtime.serving.generation import GenerationService


@dataclass(frozen=True, slots=True)
class Step:
    """What one delta of text became. ``choice`` counts from 0; ``completion_tokens`` are that choice's so far.

    ``events`` are the tokens that the text came from. ``finish_reason`` is set on a choice's last step.
    """

    choice: int
    parts: list[Part]
    events: tuple[TokenEvent, ...]
    completion_tokens: int
    finish_reason: FinishReason | None


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt of ``prompt_tokens`` and the steps of its answer, ``choices`` times; close ``steps`` to cancel it."""

    prompt_tokens: int
    choices: int
    steps: AsyncGenerator[Step, None]


async def converse(service: GenerationService, request_id: str, body: ChatBody) -> Conversation:
    """Reads the prompt; generation begins with the first step asked for. Raises InvalidRequest, TooManyRequests or Unavailable."""
    prompt = await service.encode_chat([message.rendered() for message in body.messages])
    room = service.room(prompt, body.max_completion_tokens or body.max_tokens, prompt_param="messages")
    requests = [GenerationRequest(request_id, prompt, body.sampling(room))]
    parsers = [parser_of(body) for _ in requests]
    return Conversation(len(prompt), len(requests), _steps(service.generate_each(requests, body.stop or []), parsers))


def parser_of(body: ChatBody) -> AnswerParser:
    """Returns a fresh parser for an answer to a request."""
    del body
    return PlainParser()


async def _steps(deltas: AsyncGenerator[tuple[int, TextDelta], None], parsers: Sequence[AnswerParser]) -> AsyncGenerator[Step, None]:
    async with aclosing(deltas):
        async for choice, delta in deltas:
            parts = parsers[choice].push(delta.text)
            if delta.finish_reason is not None:
                parts += parsers[choice].finish()
            yield Step(choice, parts, delta.events, delta.completion_tokens, delta.finish_reason)
