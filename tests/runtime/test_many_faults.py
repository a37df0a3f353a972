"""Bodies with a million faults: few are written down, since each costs microseconds in which nobody else is served."""

from typing import Any

import pytest
from modelyard_runtime.api.chat_body import ChatBody
from modelyard_runtime.api.embeddings import EmbeddingBody
from modelyard_runtime.api.ollama import bodies as ollama
from modelyard_runtime.api.openresponses.body import ResponsesBody
from modelyard_runtime.api.rerank import RerankBody
from modelyard_runtime.api.tokens import DetokenizeBody
from pydantic import BaseModel, ValidationError

MANY = 10_000
FIELDS = {f"f{number}": 1 for number in range(MANY)}
MESSAGE = {"role": "user", "content": "a"}
CHAT = {"model": "m", "messages": [MESSAGE]}
RESPONSE = {"model": "m", "input": "a"}

ROWS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (ChatBody, CHAT | FIELDS),
    (ChatBody, CHAT | {"messages": [MESSAGE | FIELDS]}),
    (ChatBody, CHAT | {"messages": [dict(list(FIELDS.items())[:10])] * 4096}),
    (ChatBody, CHAT | {"response_format": {"type": "text"} | FIELDS}),
    (ChatBody, CHAT | {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}} | FIELDS}}),
    (ChatBody, CHAT | {"tools": [1] * MANY}),
    (ChatBody, CHAT | {"stop": [1] * MANY}),
    (ResponsesBody, RESPONSE | {"metadata": FIELDS}),
    (ResponsesBody, RESPONSE | {"text": FIELDS}),
    (ResponsesBody, RESPONSE | {"input": [MESSAGE | FIELDS]}),
    (EmbeddingBody, {"model": "m", "input": "a"} | FIELDS),
    (RerankBody, {"model": "m", "query": "a", "documents": ["a"], "rank_fields": [1] * MANY}),
    (RerankBody, {"model": "m", "query": "a", "documents": [1] * MANY}),
    (DetokenizeBody, {"model": "m", "tokens": [-1] * MANY}),
    (ollama.ChatBody, {"model": "m", "messages": [{"role": "user"} | FIELDS]}),
    (ollama.ChatBody, {"model": "m", "messages": [MESSAGE], "options": FIELDS}),
    (ollama.EmbedBody, {"model": "m", "input": [1] * MANY}),
]


@pytest.mark.parametrize(("kind", "body"), ROWS, ids=range(len(ROWS)))
def test_few_faults_are_written_down(kind: type[BaseModel], body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as refused:
        kind.model_validate(body)
    assert refused.value.error_count() <= 20


def test_the_unknown_field_is_the_first_one() -> None:
    with pytest.raises(ValidationError) as refused:
        ChatBody.model_validate(FIELDS | CHAT)
    [fault] = refused.value.errors()
    assert (fault["type"], fault["ctx"]["field"]) == ("extra_forbidden", "f0")
