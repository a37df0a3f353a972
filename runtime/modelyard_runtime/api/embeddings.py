"""``/v1/embeddings``."""

from __future__ import annotations

import base64
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest
from numpy.typing import NDArray
from pydantic import Field

from modelyard_runtime.api.access import embedding
from modelyard_runtime.api.fields import Body, Ignored, ModelName
from modelyard_runtime.api.inputs import Inputs
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute

router = APIRouter(route_class=StrictRoute)


class EmbeddingBody(Body):
    """An embedding request."""

    model: ModelName
    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    user: Ignored = None


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingBody) -> Response:
    """Answers with one vector for each input, as numbers or as base64 of little-endian float32."""
    service = await embedding(request, body.model)
    size = service.model.dimensions
    if body.dimensions is not None and body.dimensions > size:
        raise InvalidRequest(
            f"Invalid 'dimensions': this model has {size}, got {body.dimensions}.", param="dimensions", code="invalid_value"
        )
    vectors, tokens = await service.embed(body.input)
    data = [
        {"object": "embedding", "index": index, "embedding": _render(_cut(vector, body.dimensions), body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    return json_response({"object": "list", "data": data, "model": body.model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}})


def _cut(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Returns the first ``dimensions`` values at length 1, as Matryoshka models are meant to be cut."""
    if dimensions is None or dimensions == len(vector):
        return vector
    head = vector[:dimensions]
    return head / max(float(np.linalg.norm(head)), 1e-12)


def _render(vector: NDArray[np.float32], encoding: str | None) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else np.ascontiguousarray(vector)
