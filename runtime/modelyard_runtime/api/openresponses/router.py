"""The endpoint of responses, and what there is to say about those of the past."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest, UnknownPath

from modelyard_runtime.api import sse
from modelyard_runtime.api.access import generation
from modelyard_runtime.api.conversation import converse
from modelyard_runtime.api.openresponses.answer import ResponseAnswer
from modelyard_runtime.api.openresponses.body import ResponsesBody
from modelyard_runtime.api.openresponses.naming import reworded
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.api.usage import prefetch

router = APIRouter(route_class=StrictRoute)


@router.post("/v1/responses")
async def responses(request: Request, body: ResponsesBody) -> Response:
    """Answers a conversation, whole or as events."""
    chat = body.to_chat()
    service = await generation(request, body.model, "chat")
    try:
        conversation = await converse(service, request.state.request_id, chat)
    except InvalidRequest as error:
        raise reworded(error, body.origins) from error
    if body.stream:
        conversation = replace(conversation, steps=await prefetch(conversation.steps))
    answer = ResponseAnswer(body, conversation, service.model.token_bytes, service.manner.defaults)
    return sse.EventStream(answer.stream(), last=b"") if body.stream else json_response(await answer.whole())


@router.get("/v1/responses/{name:path}")
@router.delete("/v1/responses/{name:path}")
@router.post("/v1/responses/{name:path}")
async def stored(name: str) -> Response:
    """Says that nothing is stored."""
    raise UnknownPath(
        f"There is no response '{name[:100]}': this server stores none. Keep what POST /v1/responses answers, and send it back in 'input'.",
        code="response_not_found",
    )
