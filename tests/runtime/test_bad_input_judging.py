"""Bad input to embeddings, rerank, score and classify: each row gets its status, error type, param, code and words."""

from typing import Any

import httpx
import pytest

EMBED = {"model": "tiny-embed", "input": "Hello"}
PROMPTED = {"model": "prompted", "input": "Hello"}
RERANK = {"model": "reranker", "query": "Hello", "documents": ["the world"]}
SCORE = {"model": "reranker", "text_1": "Hello", "text_2": ["the world"]}
CLASSIFY = {"model": "moods", "input": "Hello"}
LONG = "word " * 1000

# (path, body, param, code, words of the message)
ROWS: list[tuple[str, Any, str | None, str | None, str]] = [
    ("embeddings", {**PROMPTED, "prompt_name": "answer"}, "prompt_name", "invalid_value", "default, passage, query"),
    ("embeddings", {**EMBED, "prompt_name": "query"}, "prompt_name", "invalid_value", "its prompts: none"),
    ("embeddings", {**PROMPTED, "prompt_name": ""}, "prompt_name", "invalid_value", "at least 1 character"),
    ("embeddings", {**PROMPTED, "prompt": 5}, "prompt", "invalid_type", "expected a string"),
    ("embeddings", {**PROMPTED, "prompt": "x" * 10_001}, "prompt", "invalid_value", "at most 10000"),
    ("embeddings", {**PROMPTED, "prompt": "x", "prompt_name": "query"}, "prompt_name", "invalid_value", "send one of prompt"),
    ("embeddings", {**PROMPTED, "input_type": "query", "prompt": "x"}, "input_type", "invalid_value", "send one of prompt"),
    ("embeddings", {**PROMPTED, "input_type": "question"}, "input_type", "invalid_value", "'query'"),
    ("embeddings", {**PROMPTED, "input": [5], "prompt_name": "query"}, "prompt_name", "invalid_value", "token ids. Send text"),
    ("embeddings", {**PROMPTED, "input": [5], "prompt": "x"}, "prompt", "invalid_value", "token ids. Send text"),
    ("embeddings", {**PROMPTED, "input": ["x"], "prompt": LONG}, "input", "context_length_exceeded", "truncate_prompt_tokens: -1"),
    ("embeddings", {**EMBED, "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value", "expected -1 or a number"),
    ("embeddings", {**EMBED, "truncate_prompt_tokens": -2}, "truncate_prompt_tokens", "invalid_value", "at least -1"),
    ("embeddings", {**EMBED, "truncate_prompt_tokens": 1}, "truncate_prompt_tokens", "invalid_value", "… 256 tokens, got 1"),
    ("embeddings", {**EMBED, "truncate_prompt_tokens": 257}, "truncate_prompt_tokens", "invalid_value", "… 256 tokens, got 257"),
    ("embeddings", {**EMBED, "truncate_prompt_tokens": 1.5}, "truncate_prompt_tokens", "invalid_type", "expected an integer"),
    ("embeddings", {**EMBED, "truncate": "MIDDLE"}, "truncate", "invalid_value", "'START' or 'END'"),
    ("embeddings", {**EMBED, "truncate": 5}, "truncate", "invalid_value", "expected true, false"),
    ("embeddings", {**EMBED, "truncate": True, "truncate_prompt_tokens": 8}, "truncate", "invalid_value", "alone"),
    ("embeddings", {**EMBED, "truncation_side": "top"}, "truncation_side", "invalid_value", "'left'"),
    ("embeddings", {**EMBED, "input": ["", "x"]}, "input", "invalid_value", "element 0 is empty"),
    ("embeddings", {**EMBED, "input": [[5], []]}, "input", "invalid_value", "element 1 is empty"),
    ("embeddings", {**EMBED, "input": [[5], ["x"]]}, "input", "invalid_value", "no token ids"),
    ("embeddings", {**EMBED, "input": {"text": "x"}}, "input", "invalid_value", "expected a string"),
    ("embeddings", {**EMBED, "model": "moods"}, "model", "unsupported_capability", "It answers /v1/classify"),
    ("rerank", {}, "model", "missing_required_parameter", "model"),
    ("rerank", {"model": "reranker", "documents": ["x"]}, "query", "missing_required_parameter", "query"),
    ("rerank", {"model": "reranker", "query": "x"}, "documents", "missing_required_parameter", "documents"),
    ("rerank", {**RERANK, "model": "moods"}, "model", "unsupported_capability", "not made for rerank"),
    ("rerank", {**RERANK, "query": ""}, "query", "invalid_value", "at least 1 character"),
    ("rerank", {**RERANK, "query": ["x"]}, "query", "invalid_type", "expected a string"),
    ("rerank", {**RERANK, "documents": []}, "documents", "invalid_value", "at least 1 element"),
    ("rerank", {**RERANK, "documents": "x"}, "documents", "invalid_type", "expected an array"),
    ("rerank", {**RERANK, "documents": [5]}, "documents[0]", "invalid_value", "expected a string, or an object"),
    ("rerank", {**RERANK, "documents": ["x", ""]}, "documents[1].text", "invalid_value", "at least 1 character"),
    ("rerank", {**RERANK, "documents": [{"title": "x"}]}, "documents[0].title", "unknown_parameter", "Remove it"),
    ("rerank", {**RERANK, "documents": [{}]}, "documents[0].text", "missing_required_parameter", "text"),
    ("rerank", {**RERANK, "documents": ["x"] * 2049}, "documents", "invalid_value", "at most 2048"),
    ("rerank", {**RERANK, "documents": ["x", LONG]}, "documents", "context_length_exceeded", "the query with document 1 has"),
    ("rerank", {**RERANK, "query": LONG}, "documents", "context_length_exceeded", "the query with document 0 has"),
    ("rerank", {**RERANK, "model": "tiny-embed", "query": LONG}, "query", "context_length_exceeded", "maximum input length is 256"),
    ("rerank", {**RERANK, "documents": ["x" * 1_000_000]}, "documents", "context_length_exceeded", "characters"),
    ("rerank", {**RERANK, "top_n": 0}, "top_n", "invalid_value", "at least 1"),
    ("rerank", {**RERANK, "top_n": "3"}, "top_n", "invalid_type", "expected an integer"),
    ("rerank", {**RERANK, "return_documents": "yes"}, "return_documents", "invalid_type", "expected true or false"),
    ("rerank", {**RERANK, "max_tokens_per_doc": 0}, "max_tokens_per_doc", "invalid_value", "at least 1"),
    ("rerank", {**RERANK, "max_chunks_per_doc": 3}, "max_chunks_per_doc", "unsupported_parameter", "leave it out"),
    ("rerank", {**RERANK, "rank_fields": ["title"]}, "rank_fields", "unsupported_parameter", '["text"]'),
    ("rerank", {**RERANK, "top_k": 3}, "top_k", "unknown_parameter", "Here it is 'top_n'"),
    ("rerank", {**RERANK, "use_activation": 1}, "use_activation", "invalid_type", "expected true or false"),
    ("score", {"model": "reranker", "text_1": "x"}, "text_2", "missing_required_parameter", "text_2"),
    ("score", {**SCORE, "text_1": ["x", "y"]}, "text_2", "invalid_value", "has 1 texts for 2 of text_1"),
    ("score", {**SCORE, "text_1": []}, "text_1", "invalid_value", "at least 1 element"),
    ("score", {**SCORE, "text_2": 5}, "text_2", "invalid_type", "expected an array"),
    ("score", {**SCORE, "text_2": ["x", 5]}, "text_2[1]", "invalid_type", "expected a string"),
    ("score", {**SCORE, "text_2": ["x", LONG]}, "text_2", "context_length_exceeded", "pair 1 has"),
    ("score", {}, "model", "missing_required_parameter", "model"),
    ("score", {**SCORE, "text_1": ""}, "text_1[0]", "invalid_value", "at least 1 character"),
    ("score", {**SCORE, "text_1": {"text": "x"}}, "text_1", "invalid_type", "expected an array"),
    ("score", {**SCORE, "text_2": []}, "text_2", "invalid_value", "at least 1 element"),
    ("score", {**SCORE, "text_2": ["x"] * 2049}, "text_2", "invalid_value", "at most 2048"),
    ("score", {**SCORE, "use_activation": "no"}, "use_activation", "invalid_type", "expected true or false"),
    ("score", {**SCORE, "truncate_prompt_tokens": 0}, "truncate_prompt_tokens", "invalid_value", "expected -1 or a number"),
    ("score", {**SCORE, "top_n": 1}, "top_n", "unknown_parameter", "Remove it"),
    ("score", {**SCORE, "model": "moods"}, "model", "unsupported_capability", "not made for rerank"),
    ("classify", {"model": "moods"}, "input", "missing_required_parameter", "input"),
    ("classify", {**CLASSIFY, "input": ""}, "input", "invalid_value", "empty"),
    ("classify", {**CLASSIFY, "input": [["a", "b", "c"]]}, "input", "invalid_value", "element 0 is no pair"),
    ("classify", {**CLASSIFY, "input": [["a", "b"], ["c", ""]]}, "input", "invalid_value", "element 1 is no pair"),
    ("classify", {**CLASSIFY, "input": [["a", "b"]] * 2049}, "input", "invalid_value", "at most 2048"),
    ("classify", {**CLASSIFY, "input": [["a", "b"], "c"]}, "input", "invalid_value", "expected a string"),
    ("classify", {**CLASSIFY, "input": [99999]}, "input", "invalid_value", "below"),
    ("classify", {**CLASSIFY, "input": LONG}, "input", "context_length_exceeded", "input 0 has"),
    ("classify", {}, "model", "missing_required_parameter", "model"),
    ("classify", {**CLASSIFY, "input": 5}, "input", "invalid_value", "expected a string"),
    ("classify", {**CLASSIFY, "input": []}, "input", "invalid_value", "empty"),
    ("classify", {**CLASSIFY, "input": ["x", ""]}, "input", "invalid_value", "element 1 is empty"),
    ("classify", {**CLASSIFY, "use_activation": 1}, "use_activation", "invalid_type", "expected true or false"),
    ("classify", {**CLASSIFY, "truncation_side": "top"}, "truncation_side", "invalid_value", "'left'"),
    ("classify", {**CLASSIFY, "labels": ["good"]}, "labels", "unknown_parameter", "Remove it"),
    ("classify", {**CLASSIFY, "top_k": "3"}, "top_k", "invalid_type", "expected an integer"),
    ("classify", {**CLASSIFY, "top_k": 0}, "top_k", "invalid_value", "at least 1"),
    ("classify", {**CLASSIFY, "model": "tiny-embed"}, "model", "unsupported_capability", "It answers /v1/embeddings, /v1/rerank"),
]


@pytest.mark.parametrize(("path", "body", "param", "code", "words"), ROWS, ids=[f"{path}-{index}" for index, (path, *_) in enumerate(ROWS)])
def test_bad_input(judges, path, body, param, code, words):  # noqa: PLR0917
    response = httpx.post(f"{judges.url}/v1/{path}", json=body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)
    assert words in error["message"]


def test_the_server_is_unharmed(judges):
    for path, body in (("embeddings", EMBED), ("rerank", RERANK), ("score", SCORE), ("classify", CLASSIFY)):
        assert httpx.post(f"{judges.url}/v1/{path}", json=body).status_code == 200
