"""``/v1/chat/completions``."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelyard_runtime.api import sse
from modelyard_runtime.api.access import generation
from modelyard_runtime.api.chat_answer import ChatAnswer
from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.api.conversation import converse
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.api.usage import head, prefetch

router = APIRouter(route_class=StrictRoute)


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatBody) -> Response:
    """Answers a conversation, whole or as a stream."""
    service = await generation(request, body.model, "chat")
    conversation = await converse(service, request.state.request_id, body)
    if body.stream:
        conversation = replace(conversation, steps=await prefetch(conversation.steps))
    answer = ChatAnswer(
        head("chatcmpl", body.model, service.manner.fingerprint),
        conversation,
        service.model.token_bytes,
        logprobs=bool(body.logprobs),
        include_usage=body.include_usage,
        usage_in_chunks=body.usage_in_chunks,
    )
    return sse.EventStream(answer.stream()) if body.stream else json_response(await answer.whole())
