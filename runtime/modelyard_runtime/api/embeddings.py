"""``/v1/embeddings``."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from modelyard.api.errors import InvalidRequest
from numpy.typing import NDArray
from pydantic import Field, model_validator

from modelyard_runtime.api.access import embedding
from modelyard_runtime.api.fields import invalid
from modelyard_runtime.api.inputs import Inputs
from modelyard_runtime.api.judging import TextsBody
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute
from modelyard_runtime.serving.prompting import Kind, Prompting

router = APIRouter(route_class=StrictRoute)

#: Kinds of inputs as clients of Cohere, NVIDIA NIM and Voyage name them.
_KINDS: dict[str, Kind] = {
    "query": "query",
    "search_query": "query",
    "document": "document",
    "passage": "document",
    "search_document": "document",
}


class EmbeddingBody(TextsBody):
    """An embedding request. Before each text goes ``prompt``, or the model's of ``prompt_name``, or the model's for ``input_type``."""

    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(("inputs", "texts", "text"), "input")

    input: Inputs
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    prompt: Annotated[str, Field(max_length=10_000)] | None = None
    prompt_name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    input_type: Literal["query", "search_query", "document", "passage", "search_document"] | None = None

    @model_validator(mode="after")
    def _one_prompt(self) -> Self:
        if sum(value is not None for value in (self.prompt, self.prompt_name, self.input_type)) > 1:
            raise invalid("send one of prompt, prompt_name and input_type", "prompt_name" if self.prompt_name else "input_type")
        return self


@router.post("/v1/embeddings")
async def embeddings(request: Request, body: EmbeddingBody) -> Response:
    """Answers with one vector for each input, as numbers or as base64 of little-endian float32."""
    service = await embedding(request, body.model)
    size = service.model.dimensions
    if body.dimensions is not None and body.dimensions > size:
        raise InvalidRequest(
            f"Invalid 'dimensions': this model has {size}, got {body.dimensions}.", param="dimensions", code="invalid_value"
        )
    kind = _KINDS[body.input_type] if body.input_type else None
    prompting = Prompting(text=body.prompt, name=body.prompt_name, kind=kind)
    vectors, tokens = await service.embed(body.input, prompting, body.truncation)
    data = [
        {"object": "embedding", "index": index, "embedding": _render(cut(vector, body.dimensions), body.encoding_format)}
        for index, vector in enumerate(vectors)
    ]
    counted = tokens if service.reports_usage else 0
    usage = {"prompt_tokens": counted, "total_tokens": counted}
    return json_response({"object": "list", "data": data, "model": body.model, "usage": usage})


def cut(vector: NDArray[np.float32], dimensions: int | None) -> NDArray[np.float32]:
    """Returns the first ``dimensions`` values at length 1, as Matryoshka models are meant to be cut."""
    if dimensions is None or dimensions == len(vector):
        return vector
    head = vector[:dimensions]
    return head / max(float(np.linalg.norm(head)), 1e-12)


def _render(vector: NDArray[np.float32], encoding: str | None) -> Any:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode() if encoding == "base64" else np.ascontiguousarray(vector)
