"""``/v1/completions``: text after text, for strings, lists of strings and token ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest
from pydantic import Field, model_validator

from modelyard_runtime.api import sse
from modelyard_runtime.api.access import generation
from modelyard_runtime.api.completion_answer import CompletionAnswer, Prompt
from modelyard_runtime.api.fields import SamplingBody, invalid, unsupported
from modelyard_runtime.api.inputs import Inputs
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.api.usage import head, prefetch
from modelyard_runtime.engine.base import GenerationRequest

if TYPE_CHECKING:
    from modelyard_runtime.serving.generation import GenerationService

router = APIRouter(route_class=StrictRoute)

# OpenAI's default for this endpoint.
_MAX_TOKENS = 16
_MAX_PROMPTS = 128
#: Answers that one request may have computed, over all its prompts.
_MAX_SEQUENCES = 256


class CompletionBody(SamplingBody):
    """A text completion's request. ``max_tokens`` 0 with ``echo`` generates nothing: it is how prompts are scored."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **SamplingBody.elsewhere,
        **dict.fromkeys(("messages", "input"), "prompt"),
        "max_completion_tokens": "max_tokens",
    }

    prompt: Inputs
    max_tokens: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    best_of: Annotated[int, Field(ge=1, le=128)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    suffix: Annotated[Any, unsupported("")] = None

    @model_validator(mode="after")
    def _best_of_many(self) -> Self:
        if self.candidates < (self.n or 1):
            raise invalid(f"must be at least n, which is {self.n}", "best_of")
        if self.stream and self.candidates > (self.n or 1):
            raise invalid("cannot be streamed: the best is known when all are complete; leave out stream or best_of", "best_of")
        return self

    @model_validator(mode="after")
    def _something_to_say(self) -> Self:
        if self.max_tokens == 0 and not self.echo:
            raise invalid("must be at least 1, or 0 together with echo: true", "max_tokens")
        return self

    @property
    def candidates(self) -> int:
        """Answers that are computed for each prompt."""
        return self.best_of or self.n or 1

    @property
    def wanted_logprobs(self) -> int | None:
        """How many best tokens to show; the best of several is chosen by log probabilities, shown or not."""
        return 0 if self.logprobs is None and self.candidates > (self.n or 1) else self.logprobs


@router.post("/v1/completions")
async def completions(request: Request, body: CompletionBody) -> Response:
    """Goes on from each prompt, whole or as a stream."""
    service = await generation(request, body.model, "completions")
    _check_count(body)
    prompts: list[Prompt] = []
    requests: list[GenerationRequest] = []
    # One after the other: the first that is too long ends it, and the rest are not even tokenised.
    for index, given in enumerate(body.prompt):
        tokens = await service.encode(given)
        prompts.append(Prompt(tokens, _echoed(service, given) if body.echo else ""))
        requests += _requests(service, f"{request.state.request_id}-{index}", body, tokens)
    deltas = service.generate_each(requests, body.stop or [], prompts=len(prompts))
    answer = CompletionAnswer(
        head("cmpl", body.model, service.manner.fingerprint),
        prompts,
        await prefetch(deltas) if body.stream else deltas,
        service.model.token_bytes,
        choices=body.n or 1,
        candidates=body.candidates,
        logprobs=body.logprobs is not None,
        include_usage=body.include_usage,
        usage_in_chunks=body.usage_in_chunks,
    )
    return sse.EventStream(answer.stream()) if body.stream else json_response(await answer.whole())


def _check_count(body: CompletionBody) -> None:
    count = len(body.prompt)
    if count > _MAX_PROMPTS:
        raise InvalidRequest(
            f"Invalid 'prompt': must have at most {_MAX_PROMPTS} element(s), got {count}.", param="prompt", code="invalid_value"
        )
    if count * body.candidates > _MAX_SEQUENCES:
        raise InvalidRequest(
            f"{count} prompts with {body.candidates} answers each are {count * body.candidates}, and a request may have {_MAX_SEQUENCES}. "
            "Send fewer prompts at once, or lower 'n' or 'best_of'.",
            param="prompt",
            code="invalid_value",
        )


def _echoed(service: GenerationService, given: str | list[int]) -> str:
    return given if isinstance(given, str) else service.model.decode(given)


def _requests(service: GenerationService, request_id: str, body: CompletionBody, prompt: list[int]) -> list[GenerationRequest]:
    defaults = service.manner.defaults
    room = service.bounds.room(prompt, body.max_tokens, prompt_param="prompt", default=defaults.max_tokens or _MAX_TOKENS)
    sampling = body.sampling(room, defaults)
    if body.echo and (body.logprobs is not None or not room):
        sampling = replace(sampling, prompt_logprobs=body.logprobs or 0)
    return service.choices(request_id, prompt, sampling, count=body.candidates, param="best_of" if body.best_of else "n")
