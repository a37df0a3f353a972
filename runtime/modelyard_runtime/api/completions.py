"""``/v1/completions``: text after text, for strings, lists of strings and token ids."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest

from modelyard_runtime.api import sse
from modelyard_runtime.api.access import generation
from modelyard_runtime.api.fields import SamplingBody, unsupported
from modelyard_runtime.api.inputs import Inputs
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.api.usage import prefetch, usage
from modelyard_runtime.engine.base import GenerationRequest
from modelyard_runtime.models.chat import TextDelta
from modelyard_runtime.serving.generation import GenerationService

router = APIRouter(route_class=StrictRoute)

# OpenAI's default for this endpoint.
_MAX_TOKENS = 16
_MAX_PROMPTS = 128


class CompletionBody(SamplingBody):
    """A text completion's request."""

    prompt: Inputs
    best_of: Annotated[int | None, unsupported(1)] = None
    echo: Annotated[bool | None, unsupported(False)] = None
    logprobs: Annotated[int | None, unsupported()] = None
    suffix: Annotated[str | None, unsupported("")] = None


@router.post("/v1/completions")
async def completions(request: Request, body: CompletionBody) -> Response:
    """Goes on from each prompt, whole or as a stream."""
    service = await generation(request, body.model, "completions")
    # One after the other: the first that is too long ends it, and the rest are not even tokenised.
    requests = [_request(service, request, body, index, await service.encode(prompt)) for index, prompt in enumerate(_bounded(body.prompt))]
    deltas = service.generate_each(requests, body.stop or [])
    prompt_tokens = sum(len(each.prompt_token_ids) for each in requests)
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time()), "model": body.model}
    if body.stream:
        return sse.EventStream(_stream(head, await prefetch(deltas), prompt_tokens, body.include_usage))
    return json_response(await _whole(head, deltas, len(requests), prompt_tokens))


def _bounded(prompts: list[str | list[int]]) -> list[str | list[int]]:
    if len(prompts) > _MAX_PROMPTS:
        raise InvalidRequest(
            f"Invalid 'prompt': must have at most {_MAX_PROMPTS} element(s), got {len(prompts)}.", param="prompt", code="invalid_value"
        )
    return prompts


def _request(service: GenerationService, request: Request, body: CompletionBody, index: int, prompt: list[int]) -> GenerationRequest:
    room = service.room(prompt, body.max_tokens, prompt_param="prompt", default=_MAX_TOKENS)
    return GenerationRequest(f"{request.state.request_id}-{index}", prompt, body.sampling(room))


async def _whole(
    head: dict[str, Any], answers: AsyncGenerator[tuple[int, TextDelta], None], count: int, prompt_tokens: int
) -> dict[str, Any]:
    parts: list[list[TextDelta]] = [[] for _ in range(count)]
    async with aclosing(answers):
        async for index, delta in answers:
            parts[index].append(delta)
    choices = [_choice(index, "".join(delta.text for delta in deltas), deltas[-1].finish_reason) for index, deltas in enumerate(parts)]
    return {**head, "choices": choices, "usage": usage(prompt_tokens, sum(deltas[-1].completion_tokens for deltas in parts))}


async def _stream(
    head: dict[str, Any], deltas: AsyncGenerator[tuple[int, TextDelta], None], prompt_tokens: int, include_usage: bool
) -> AsyncIterator[bytes]:
    tail = {"usage": None} if include_usage else {}
    tokens = 0
    async with aclosing(deltas):
        async for index, delta in deltas:
            tokens += len(delta.token_ids)
            yield sse.event({**head, "choices": [_choice(index, delta.text, delta.finish_reason)], **tail})
    if include_usage:
        yield sse.event({**head, "choices": [], "usage": usage(prompt_tokens, tokens)})


def _choice(index: int, text: str, reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": reason}
