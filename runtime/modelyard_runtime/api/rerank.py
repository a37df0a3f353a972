"""``/v1/rerank`` in the shapes of Jina and Cohere, and ``/v1/score`` in that of vLLM.

https://docs.cohere.com/reference/rerank, https://jina.ai/reranker, https://docs.vllm.ai/en/latest/models/pooling_models/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from modelyard_runtime.api.access import reranking
from modelyard_runtime.api.fields import Body, Ignored, invalid, unsupported
from modelyard_runtime.api.judging import MAX_TEXTS, RequestText, ScoringBody, head, usage
from modelyard_runtime.api.responses import json_response
from modelyard_runtime.api.route import StrictRoute

router = APIRouter(route_class=StrictRoute)


class Document(Body):
    """A document as an object."""

    text: RequestText


def _document(value: Any) -> Any:
    if isinstance(value, str):
        return {"text": value}
    if not isinstance(value, dict):
        raise invalid('expected a string, or an object as {"text": "…"}')
    return value


AnyDocument = Annotated[
    Document,
    BeforeValidator(_document),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {
                    "type": "object",
                    "properties": {"text": {"type": "string", "minLength": 1}},
                    "required": ["text"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]


class RerankBody(ScoringBody):
    """A query and the documents to put in order. ``return_documents`` gives each result its document, which is left out otherwise.

    ``max_tokens_per_doc`` is Cohere's: of each document so many tokens are read.
    """

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("texts", "passages"), "documents"),
        "return_text": "return_documents",
        "top_k": "top_n",
    }

    query: RequestText
    documents: Annotated[list[AnyDocument], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    return_documents: bool | None = None
    max_tokens_per_doc: Annotated[int, Field(ge=1, le=10_000_000)] | None = None
    max_chunks_per_doc: Annotated[int | None, unsupported(1)] = None
    rank_fields: Annotated[Any, unsupported(["text"])] = None
    client_name: Ignored = None


@router.post("/v1/rerank")
@router.post("/v2/rerank", include_in_schema=False)
@router.post("/rerank", include_in_schema=False)
async def rerank(request: Request, body: RerankBody) -> Response:
    """Answers with the documents' places in the request, the most relevant first."""
    service = await reranking(request, body.model)
    documents = [document.text for document in body.documents]
    if body.max_tokens_per_doc is not None:
        documents = await service.beginnings(documents, body.max_tokens_per_doc, param="documents")
    pairs = [(body.query, document) for document in documents]
    scores, tokens = await service.score(pairs, retrieval=True, param="documents", activated=body.activated, truncation=body.truncation)
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: body.top_n]
    results = [
        {"index": index, "relevance_score": scores[index]}
        | ({"document": {"text": body.documents[index].text}} if body.return_documents else {})
        for index in order
    ]
    counted = usage(tokens, service.reports_usage)
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}, "tokens": {"input_tokens": counted["prompt_tokens"]}}
    return json_response(head("rerank", body.model) | {"results": results, "usage": counted, "meta": meta})


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[
    Annotated[list[RequestText], Field(min_length=1, max_length=MAX_TEXTS)],
    BeforeValidator(_texts),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1, "maxItems": MAX_TEXTS},
            ]
        }
    ),
]


class ScoreBody(ScoringBody):
    """Texts to judge in pairs: one with each of several, or several one by one."""

    elsewhere: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(("query", "queries", "data_1"), "text_1"),
        **dict.fromkeys(("documents", "items", "data_2"), "text_2"),
    }

    text_1: Texts
    text_2: Texts

    @model_validator(mode="after")
    def _paired(self) -> Self:
        if len(self.text_1) not in {1, len(self.text_2)}:
            raise invalid(
                f"has {len(self.text_2)} texts for {len(self.text_1)} of text_1; send as many, or one text_1 for all of them", "text_2"
            )
        return self

    @property
    def pairs(self) -> Sequence[tuple[str, str]]:
        """The pairs, in order."""
        firsts = self.text_1 * len(self.text_2) if len(self.text_1) == 1 else self.text_1
        return list(zip(firsts, self.text_2, strict=True))


@router.post("/v1/score")
@router.post("/score", include_in_schema=False)
async def score(request: Request, body: ScoreBody) -> Response:
    """Answers with a score for each pair, in order."""
    service = await reranking(request, body.model)
    scores, tokens = await service.score(body.pairs, retrieval=False, param="text_2", activated=body.activated, truncation=body.truncation)
    data = [{"index": index, "object": "score", "score": value} for index, value in enumerate(scores)]
    return json_response(head("score", body.model) | {"data": data, "usage": usage(tokens, service.reports_usage)})
