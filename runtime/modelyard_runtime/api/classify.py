"""``/v1/classify`` in the shapes of vLLM and Jina at once.

https://docs.vllm.ai/en/latest/models/pooling_models/, https://jina.ai/classifier
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from numpy.typing import NDArray
from pydantic import BeforeValidator, Field, WithJsonSchema

from modelyard_runtime.api.access import classification
from modelyard_runtime.api.fields import invalid
from modelyard_runtime.api.inputs import normalize
from modelyard_runtime.api.judging import MAX_TEXTS, ScoringBody, head, usage
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute

router = APIRouter(route_class=StrictRoute)


def _inputs(value: Any) -> Any:
    """Returns texts, pairs of texts as tuples, or token ids; raises on anything else."""
    if not isinstance(value, list) or not value or not all(isinstance(one, list) and _is_pair(one) for one in value):
        return normalize(value)
    if len(value) > MAX_TEXTS:
        raise invalid(f"must have at most {MAX_TEXTS} element(s)")
    for index, pair in enumerate(value):
        if len(pair) != 2 or not all(pair):
            raise invalid(f"element {index} is no pair of two texts; send them as [text, other text]")
    return [tuple(pair) for pair in value]


def _is_pair(value: list[Any]) -> bool:
    return bool(value) and all(isinstance(part, str) for part in value)


_TEXT = {"type": "string", "minLength": 1}
_TOKENS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_PAIR = {"type": "array", "items": _TEXT, "minItems": 2, "maxItems": 2}
ClassifyInputs = Annotated[
    list[Any],
    BeforeValidator(_inputs),
    WithJsonSchema(
        {
            "anyOf": [
                _TEXT,
                _TOKENS,
                *({"type": "array", "items": item, "minItems": 1, "maxItems": MAX_TEXTS} for item in (_TEXT, _TOKENS, _PAIR)),
            ]
        }
    ),
]


class ClassifyBody(ScoringBody):
    """Texts, or pairs of texts, to classify. ``top_k`` bounds the labels in ``predictions``; ``probs`` always has all of them."""

    elsewhere: ClassVar[Mapping[str, str]] = dict.fromkeys(("inputs", "texts", "text"), "input")

    input: ClassifyInputs
    top_k: Annotated[int, Field(ge=1, le=1_000_000)] | None = None


@router.post("/v1/classify")
@router.post("/classify", include_in_schema=False)
async def classify(request: Request, body: ClassifyBody) -> Response:
    """Answers with the likeliest label of each input and the probability of every label, in the model's order and sorted."""
    service = await classification(request, body.model)
    probabilities, tokens = await service.classify(body.input, activated=body.activated, truncation=body.truncation)
    labels = service.model.labels
    data = [{"object": "classification", "index": index} | _judged(row, labels, body.top_k) for index, row in enumerate(probabilities)]
    return json_response(head("classify", body.model) | {"data": data, "usage": usage(tokens, service.reports_usage)})


def _judged(row: NDArray[np.float32], labels: list[str], top: int | None) -> dict[str, Any]:
    order = np.argsort(-row, kind="stable")
    predictions = [{"label": labels[place], "score": float(row[place])} for place in order[:top]]
    label, score = predictions[0].values()
    vllm = {"label": label, "probs": np.ascontiguousarray(row), "num_classes": len(labels)}
    return vllm | {"prediction": label, "score": score, "predictions": predictions}
