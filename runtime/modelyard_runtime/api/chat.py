"""``/v1/chat/completions``."""

from __future__ import annotations

import time
import uuid
from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response

from modelyard_runtime.api import sse
from modelyard_runtime.api.access import generation
from modelyard_runtime.api.chat_answer import stream, whole
from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.api.conversation import converse
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.api.usage import prefetch

router = APIRouter(route_class=StrictRoute)


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, body: ChatBody) -> Response:
    """Answers a conversation, whole or as a stream."""
    service = await generation(request, body.model, "chat")
    conversation = await converse(service, request.state.request_id, body)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": body.model}
    if body.stream:
        begun = replace(conversation, steps=await prefetch(conversation.steps))
        return sse.EventStream(stream(head | {"object": "chat.completion.chunk"}, begun, body.include_usage))
    return json_response(await whole(head | {"object": "chat.completion"}, conversation))
