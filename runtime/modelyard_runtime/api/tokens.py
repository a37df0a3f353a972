"""``/tokenize`` and ``/detokenize``, in vLLM's shapes: what a text, or a conversation in the model's template, is in tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Self, cast

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest
from pydantic import Field, model_validator

from modelyard_runtime.api.access import generation, runtime_of, service
from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.api.conversation import prompt_of
from modelyard_runtime.api.fields import Body, ModelName, invalid, unsupported, valid_body
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute

if TYPE_CHECKING:
    from modelyard_runtime.serving.codec import Codec

router = APIRouter(route_class=StrictRoute)

_MAX_TOKENS = 1_000_000
_OF_CHATS = ("messages", "tools", "chat_template_kwargs", "add_generation_prompt", "continue_final_message")


class TokenizeBody(Body):
    """A text or a conversation. ``model`` may be left out where the server has one."""

    model: ModelName | None = None
    prompt: str | None = None
    messages: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=4096)] | None = None
    tools: Annotated[list[dict[str, Any]], Field(max_length=128)] | None = None
    chat_template_kwargs: Annotated[dict[str, Any], Field(max_length=64)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None
    chat_template: Annotated[Any, unsupported()] = None

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise invalid("send either prompt or messages", "prompt")
        wrong = [name for name in _OF_CHATS[1:] if getattr(self, name) is not None and self.messages is None]
        if wrong:
            raise invalid("belongs to messages; leave it out", wrong[0])
        if self.messages is not None and self.add_special_tokens:
            raise invalid("a chat template brings its own special tokens; leave it out", "add_special_tokens")
        return self


class DetokenizeBody(Body):
    """Token ids."""

    model: ModelName | None = None
    tokens: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=_MAX_TOKENS, fail_fast=True)]


@router.post("/tokenize")
async def tokenize(request: Request, body: TokenizeBody) -> Response:
    """Answers with the ids of a text, or of a conversation as a chat completion would read it."""
    name = _name(request, body.model)
    if body.messages is None:
        codec, length = await _codec(request, name)
        tokens = await codec.encode(body.prompt or "", add_special_tokens=body.add_special_tokens is not False)
    else:
        fields = {field: getattr(body, field) for field in _OF_CHATS if getattr(body, field) is not None}
        asked = valid_body(ChatBody, {"model": name, **fields})
        chat = await generation(request, name, "chat")
        codec, length = chat.codec, chat.max_length
        tokens = await chat.encode_chat(prompt_of(chat, asked))
    spelt = await codec.spell(tokens) if body.return_token_strs else None
    return json_response({"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": spelt})


@router.post("/detokenize")
async def detokenize(request: Request, body: DetokenizeBody) -> Response:
    """Answers with the text of ids, special tokens by their names."""
    codec, _ = await _codec(request, _name(request, body.model))
    return json_response({"prompt": await codec.decode(body.tokens)})


async def _codec(request: Request, name: str) -> tuple[Codec, int]:
    """Returns a model's tokenizer and its context in tokens. Raises InvalidRequest where it reads no text, and what `service` raises."""
    found = await service(request, name, None)
    codec = getattr(found, "codec", None)
    if codec is None:
        raise InvalidRequest("This model reads no text. Ask another one.", param="model", code="unsupported_capability")
    return cast("Codec", codec), found.max_length


def _name(request: Request, given: str | None) -> str:
    """Returns the model that is meant. Raises InvalidRequest when none is named and there are several."""
    models = runtime_of(request).registry.models
    if given is None and len(models) != 1:
        raise InvalidRequest(
            "Missing required parameter: 'model'. This server has several.", param="model", code="missing_required_parameter"
        )
    return given if given is not None else models[0].name
