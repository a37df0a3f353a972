"""``/api/embed`` and ``/api/embeddings``."""

from __future__ import annotations

import time
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest

from modelyard_runtime.api.access import embedding
from modelyard_runtime.api.embeddings import cut
from modelyard_runtime.api.inputs import MAX_INPUTS
from modelyard_runtime.api.ollama.bodies import EmbedBody, EmbeddingsBody, ModelBody
from modelyard_runtime.api.ollama.keeping import keep
from modelyard_runtime.api.ollama.names import find, plain
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import UntypedRoute
from modelyard_runtime.serving.prompting import NO_PROMPTING, Truncation

router = APIRouter(route_class=UntypedRoute)


@router.post("/api/embed")
async def embed(request: Request, body: EmbedBody) -> Response:
    """Answers with a vector for each text; none for no text, which only loads the model.

    Texts that are too long are cut, unless ``truncate`` is false.
    """
    arrived = time.monotonic_ns()
    texts = [text for text in [body.input] if text] if isinstance(body.input, str) else body.input
    if len(texts) > MAX_INPUTS:
        raise InvalidRequest(f"'input' has {len(texts)} texts, and {MAX_INPUTS} is the limit. Send fewer at once.", param="input")
    vectors, tokens, loaded = await _vectors(request, body, texts, body.truncate is not False, body.dimensions)
    return json_response(
        {
            "model": body.model,
            "embeddings": vectors,
            "total_duration": time.monotonic_ns() - arrived,
            "load_duration": loaded - arrived,
            "prompt_eval_count": tokens,
        }
    )


@router.post("/api/embeddings")
async def embeddings(request: Request, body: EmbeddingsBody) -> Response:
    """Answers with the vector of one text; none for no text, which only loads the model."""
    texts = [body.prompt] if body.prompt else []
    vectors, _, _ = await _vectors(request, body, texts, True, None)
    return json_response({"embedding": vectors[0] if vectors else []})


async def _vectors(
    request: Request, body: ModelBody, texts: list[str], truncate: bool, dimensions: int | None
) -> tuple[list[Any], int, int]:
    """Returns the vectors, the number of tokens, and when the model was loaded in monotonic nanoseconds."""
    model = find(request, body.model)
    service = await embedding(request, plain(request, body.model))
    loaded = time.monotonic_ns()
    keep(request, model, body.keep_alive)
    if dimensions is not None and dimensions > service.model.dimensions:
        raise InvalidRequest(f"This model's vectors have {service.model.dimensions} dimensions. Lower 'dimensions'.", param="dimensions")
    if not texts:
        return [], 0, loaded
    if "" in texts:
        raise InvalidRequest(f"'input[{texts.index('')}]' is empty. Send at least one character.", param="input")
    vectors, tokens = await service.embed(texts, NO_PROMPTING, Truncation() if truncate else None)
    return [cut(vector, dimensions) for vector in vectors], tokens, loaded
