"""From a chat request to the steps of its answer: what chat completions and responses share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from modelyard.api.errors import InvalidRequest

from modelyard_runtime.api.bounds_of_answers import param_of, wanted_of
from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.engine.base import FinishReason
from modelyard_runtime.models.answer import Part, Reasoning
from modelyard_runtime.models.prompt import ChatPrompt
from modelyard_runtime.models.text import TextDelta

if TYPE_CHECKING:
    from modelyard_runtime.serving.generation import GenerationService


@dataclass(frozen=True, slots=True)
class Step:
    """What one delta of a choice's text became; ``choice`` counts from 0. The last parts come with the delta's ``finish_reason``."""

    choice: int
    parts: list[Part]
    delta: TextDelta


@dataclass(slots=True)
class Tally:
    """What one choice has come to so far, in tokens; ``cached_tokens`` are the prompt's."""

    tokens: int = 0
    reasoning_tokens: int = 0
    cached_tokens: int = 0
    finish_reason: FinishReason | None = None

    def add(self, step: Step) -> None:
        """Takes a step in."""
        self.tokens = step.delta.completion_tokens
        self.cached_tokens += sum(event.cached_tokens for event in step.delta.events)
        if any(isinstance(part, Reasoning) for part in step.parts):
            self.reasoning_tokens += len(step.delta.token_ids)
        self.finish_reason = step.delta.finish_reason


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt of ``prompt_tokens`` and the steps of its answer, ``choices`` times; close ``steps`` to cancel it."""

    prompt_tokens: int
    choices: int
    steps: AsyncGenerator[Step, None]


async def converse(service: GenerationService, request_id: str, body: ChatBody) -> Conversation:
    """Reads the prompt; generation begins with the first step asked for. Raises InvalidRequest, TooManyRequests or Unavailable."""
    bound = await asyncio.to_thread(wanted_of, body)
    pictures, pixels = body.pictures, None
    if pictures:
        service.check_pictures(pictures)
        service = service.asked("vision")
    prompt = await service.encode_chat(prompt_of(service, body))
    if pictures:
        prompt, pixels = await service.look(prompt, pictures)
    wanted, param = body.limit
    defaults = service.manner.defaults
    room = service.bounds.room(prompt, wanted, prompt_param="messages", wanted_param=param, default=defaults.max_tokens)
    media = None if pixels is None else await service.media(prompt, pixels)
    sampling = body.sampling(room, defaults)
    if bound is not None:
        sampling = replace(sampling, grammar=await service.speech.grammar(prompt, bound, param_of(body)))
    requests = service.choices(request_id, prompt, sampling, count=body.n or 1, media=media)
    tools = {tool.function.name: tool.schema_of_arguments for tool in body.callable_tools}
    single = body.parallel_tool_calls is False
    readers = [service.speech.reader(prompt, tools, body.stop or [], parallel=not single) for _ in requests]
    deltas = service.generate_each(requests, visible=service.speech.dialect.visible(tools=bool(tools)), readers=readers)
    return Conversation(len(prompt), len(requests), _steps(deltas))


def prompt_of(service: GenerationService, body: ChatBody) -> ChatPrompt:
    """Returns what the chat template renders for a request. Raises InvalidRequest."""
    variables = body.chat_template_kwargs or {}
    unknown = sorted(set(variables) - service.manner.variables)
    if unknown:
        raise InvalidRequest(
            f"'chat_template_kwargs.{unknown[0][:64]}' is not for requests to set; {', '.join(sorted(service.manner.variables))} are. "
            "Leave it out, or start the server with --chat-template-kwargs.",
            param=f"chat_template_kwargs.{unknown[0][:64]}",
            code="invalid_value",
        )
    dialect = service.speech.dialect
    tools = [] if body.tool_choice == "none" else [tool.rendered() for tool in body.tools or ()]
    messages = dialect.rendered([message.rendered() for message in body.messages], tools)
    variables = dialect.effort(body.reasoning_effort) | variables
    return ChatPrompt(messages, (tools or None) if dialect.takes_tools else None, variables, body.ending)


async def _steps(deltas: AsyncGenerator[tuple[int, TextDelta], None]) -> AsyncGenerator[Step, None]:
    async with aclosing(deltas):
        async for choice, delta in deltas:
            yield Step(choice, list(delta.parts), delta)
