"""The ways of requests through a model that generates, to be run before requests come."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import TYPE_CHECKING, Any

from modelyard.api.errors import InvalidRequest
from PIL import Image

from modelyard_runtime.engine.base import GenerationRequest, GrammarFailed, NotHonoured, RequestTooLarge, SamplingParams
from modelyard_runtime.engine.media import Media
from modelyard_runtime.engine.settings import EngineSettings, chunks
from modelyard_runtime.leases import leasing
from modelyard_runtime.models.prompt import ChatPrompt, Picture
from modelyard_runtime.models.tools.grammars import Wanted
from modelyard_runtime.serving.merge import merge
from modelyard_runtime.serving.warmup import Way
from modelyard_runtime.structured.grammar import json_rule

if TYPE_CHECKING:
    from modelyard_runtime.serving.generation import GenerationService

_NEW_TOKENS = 4
_GREEDY = SamplingParams(temperature=0.0, max_tokens=_NEW_TOKENS)
_SCHEMA = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"], "additionalProperties": False}
_HELLO: Mapping[str, Any] = {"role": "user", "content": "Hello"}
_SEEN: Mapping[str, Any] = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hello"}]}
_SIDE = 64


def ways(service: GenerationService, capability: str, *, batch: int, device: str) -> tuple[Way, ...]:
    """Returns the ways of a capability, from small to large; ``batch`` short answers are generated at once.

    The engine's own comes last: it ends with the engine forgetting what it has computed and counted for all of them.
    """
    own = {
        "chat": (Way("conversation", partial(_conversation, service, batch)), Way("schema", partial(_schema, service))),
        "completions": (Way("text", partial(_text, service, batch)),),
        "vision": (Way("image", partial(_image, service)),),
    }
    length = 2 * EngineSettings(**chunks(device)).prefill_tokens  # as long as a prompt needs to be for the largest step
    shared = (Way("long prompt", partial(_long, service, length)), Way("steps", service.model.engine.warm_up))
    return (*own[capability], *shared)


async def _conversation(service: GenerationService, batch: int) -> None:
    """Through the chat template, and through the parser of answers."""
    prompt = await _read(service, _HELLO)
    parser = service.speech.parser(prompt, {}, parallel=True)
    parser.push(await _generate(service, prompt, _GREEDY, batch))
    parser.finish()


async def _schema(service: GenerationService) -> None:
    """An answer that a JSON schema bounds: the compiler's process, the masks, and the sampler that takes them."""
    prompt = await _read(service, _HELLO)
    grammar = await service.speech.grammar(prompt, Wanted(answer=json_rule(_SCHEMA)), "response_format")
    await _generate(service, prompt, SamplingParams(temperature=0.0, max_tokens=_NEW_TOKENS, grammar=grammar))


async def _text(service: GenerationService, batch: int) -> None:
    """Text as it is, with the scores of prompt and answer."""
    prompt = await service.encode("Hello")
    await _generate(service, prompt, _GREEDY, batch)
    await _generate(service, prompt, SamplingParams(temperature=0.8, top_p=0.9, seed=0, max_tokens=1, logprobs=1, prompt_logprobs=1))


async def _long(service: GenerationService, length: int) -> None:
    """A prompt that is read in several steps of the largest size, as far as the context holds it."""
    room = min(length, service.max_length - 1)
    await _generate(service, [token % service.bounds.vocabulary for token in range(room)], SamplingParams(temperature=0.0, max_tokens=1))


async def _image(service: GenerationService) -> None:
    """A small image, from its URL through decoding, the model's processor and its tower."""
    file = io.BytesIO()
    Image.new("RGB", (_SIDE, _SIDE)).save(file, "png")
    picture = Picture(f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}", "messages")
    with leasing():
        prompt, pixels = await service.look(await _read(service, _SEEN), [picture])
        await _generate(service, prompt, _GREEDY, media=await service.media(prompt, pixels))


async def _read(service: GenerationService, message: Mapping[str, Any]) -> list[int]:
    return await service.encode_chat(ChatPrompt(service.speech.dialect.rendered([message], [])))


async def _generate(
    service: GenerationService, prompt: Sequence[int], sampling: SamplingParams, count: int = 1, *, media: Media | None = None
) -> str:
    """Returns the first of ``count`` answers. Raises InvalidRequest where the context, or the engine, does not allow for one."""
    requests = [GenerationRequest(f"warm-up-{index}", list(prompt), sampling, media=media) for index in range(count)]
    text = ""
    try:
        async with aclosing(merge([service.model.generate(request) for request in requests])) as deltas:
            async for index, delta in deltas:
                text += "" if index else delta.text
    except (RequestTooLarge, GrammarFailed, NotHonoured) as refusal:
        raise InvalidRequest(str(refusal)) from refusal
    return text
