"""``/api/chat`` and ``/api/generate``."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest

from modelyard_runtime.api.access import generation
from modelyard_runtime.api.chat_body import ChatBody as OpenAIChat
from modelyard_runtime.api.conversation import Step, converse
from modelyard_runtime.api.logprobs import Spelling, chat_entries
from modelyard_runtime.api.ollama import translation
from modelyard_runtime.api.ollama.answers import Answer, Clock, Piece, Shape, message, response
from modelyard_runtime.api.ollama.bodies import AnswerBody, ChatBody, GenerateBody
from modelyard_runtime.api.ollama.keeping import keep, unload
from modelyard_runtime.api.ollama.lines import LineStream, now
from modelyard_runtime.api.ollama.names import find, plain
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import UntypedRoute
from modelyard_runtime.api.usage import prefetch
from modelyard_runtime.models.answer import Content, Part
from modelyard_runtime.serving.model import ServedModel

if TYPE_CHECKING:
    from modelyard_runtime.models.text import TextDelta

router = APIRouter(route_class=UntypedRoute)


@router.post("/api/chat")
async def chat(request: Request, body: ChatBody) -> Response:
    """Answers a conversation, in lines unless told otherwise."""
    model = find(request, body.model)
    if not body.messages:
        return await _nothing(request, model, body, message)
    return await _converse(request, model, body, translation.chat(body), message)


@router.post("/api/generate")
async def generate(request: Request, body: GenerateBody) -> Response:
    """Answers a prompt: as a turn of a chat, or goes on from it where it is raw or the model knows no chats."""
    model = find(request, body.model)
    if not body.prompt and not body.images:
        return await _nothing(request, model, body, response)
    if body.raw or (model.capabilities and "chat" not in model.capabilities):
        return await _complete(request, model, body)
    return await _converse(request, model, body, translation.generation(body), response)


async def _converse(request: Request, model: ServedModel, body: AnswerBody, asked: OpenAIChat, shape: Shape) -> Response:
    clock = Clock()
    service = await generation(request, plain(request, body.model), "chat")
    clock.loaded = time.monotonic_ns()
    if body.think and service.speech.dialect.reasoning == "none":
        raise InvalidRequest("This model does not think. Leave 'think' out, or ask one that does.", param="think")
    conversation = await converse(service, request.state.request_id, asked)
    pieces = _of_steps(conversation.steps, service.model.token_bytes if body.logprobs else None)
    return await _answer(request, model, body, Answer(body.model, conversation.prompt_tokens, pieces, clock, shape))


async def _complete(request: Request, model: ServedModel, body: GenerateBody) -> Response:
    """Goes on from a prompt as it is."""
    clock = Clock()
    asked = translation.completion(body)
    service = await generation(request, plain(request, body.model), "completions")
    clock.loaded = time.monotonic_ns()
    prompt = await service.encode(body.prompt or "")
    defaults = service.manner.defaults
    room = service.bounds.room(prompt, asked.max_tokens, prompt_param="prompt", wanted_param="num_predict", default=defaults.max_tokens)
    sampling = replace(asked.sampling(room, defaults), logprobs=body.wanted_logprobs)
    requests = service.choices(request.state.request_id, prompt, sampling)
    pieces = _of_deltas(service.generate_each(requests, asked.stop or []), service.model.token_bytes if body.logprobs else None)
    return await _answer(request, model, body, Answer(body.model, len(prompt), pieces, clock, response))


async def _answer(request: Request, model: ServedModel, body: AnswerBody, answer: Answer) -> Response:
    keep(request, model, body.keep_alive)
    if not body.streams:
        return json_response(await answer.whole())
    return LineStream(replace(answer, pieces=await prefetch(answer.pieces)).lines())


async def _nothing(request: Request, model: ServedModel, body: AnswerBody, shape: Shape) -> Response:
    """Answers a request without a prompt, which is how clients load a model before they need it, and unload it."""
    done = "unload" if body.keep_alive == 0 else "load"
    if done == "unload":
        await unload(request, model)
    else:
        await generation(request, plain(request, body.model), "completions")
        keep(request, model, body.keep_alive)
    said: dict[str, Any] = {"model": body.model, "created_at": now(), **shape("", "", []), "done": True, "done_reason": done}
    return json_response(said)


async def _of_steps(steps: AsyncGenerator[Step, None], spelling: Spelling | None) -> AsyncGenerator[Piece, None]:
    async with aclosing(steps):
        async for step in steps:
            yield _piece(step.parts, step.delta, spelling)


async def _of_deltas(deltas: AsyncGenerator[tuple[int, TextDelta], None], spelling: Spelling | None) -> AsyncGenerator[Piece, None]:
    async with aclosing(deltas):
        async for _, delta in deltas:
            yield _piece([Content(delta.text)], delta, spelling)


def _piece(parts: list[Part], delta: TextDelta, spelling: Spelling | None) -> Piece:
    scores = None if spelling is None else chat_entries(delta.tokens, spelling)
    return Piece(parts, delta.completion_tokens, delta.finish_reason, scores)
