"""Embeddings, rerank, score and classify over HTTP: prompts, truncation, the cache, shapes, usage, fairness."""

import asyncio
import base64
import threading

import httpx
import numpy as np
import pytest
from modelyard_runtime.serving.caching import VectorCache

DOCUMENTS = ["thank you very much", "the world of words", "Hello", "the world of words and numbers"]


@pytest.fixture
def server(judges):
    return judges


def post(server, path: str, **body):
    response = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == 200, response.text
    return response.json()


def embed(server, texts, model: str = "tiny-embed", **body) -> np.ndarray:
    answer = post(server, "/v1/embeddings", model=model, input=texts, **body)
    return np.array([entry["embedding"] for entry in answer["data"]])


def test_the_models_say_what_they_are_for(server):
    models = {entry["id"]: entry for entry in httpx.get(f"{server.url}/v1/models").json()["data"]}
    assert models["tiny-embed"]["capabilities"] == ["embeddings", "rerank"]
    assert models["tiny-embed"]["embedding_size"] == 64
    assert models["tiny-embed"]["engine"]["name"] == models["moods"]["engine"]["name"] == "encoder"
    assert models["tiny-embed"]["engine"]["packed"] is True
    assert models["reranker"]["capabilities"] == ["rerank"]
    assert models["moods"]["capabilities"] == ["classify"]
    assert models["moods"]["labels"] == ["good", "bad", "odd"]
    assert models["prompted"]["prompts"] == ["default", "passage", "query"]


@pytest.mark.parametrize("model", ["tiny-embed", "reranker"])
def test_rerank(server, model):
    body = {"model": model, "query": "the world", "documents": DOCUMENTS}
    answer = post(server, "/v1/rerank", **body)
    assert answer["model"] == model
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True)
    assert sorted(result["index"] for result in answer["results"]) == [0, 1, 2, 3]
    assert all("document" not in result for result in answer["results"])
    assert answer["usage"]["total_tokens"] == answer["usage"]["prompt_tokens"] == answer["meta"]["tokens"]["input_tokens"] > 0
    top = post(server, "/v1/rerank", **body, top_n=2, return_documents=True)["results"]
    assert [result["index"] for result in top] == [result["index"] for result in answer["results"][:2]]
    assert [result["document"]["text"] for result in top] == [DOCUMENTS[result["index"]] for result in top]
    objects = [{"text": text} for text in DOCUMENTS]
    for path in ("/v2/rerank", "/rerank"):
        other = post(server, path, model=model, query="the world", documents=objects)["results"]
        assert [result["relevance_score"] for result in other] == pytest.approx(scores, abs=1e-5)


@pytest.mark.parametrize("model", ["tiny-embed", "reranker"])
def test_documents_are_read_as_far_as_asked(server, model):
    """In the shape of Cohere's second version."""
    body = {"model": model, "query": "the world", "max_tokens_per_doc": 3, "return_documents": True, "priority": 0}
    first = post(server, "/tokenize", model=model, prompt=DOCUMENTS[0], add_special_tokens=False)["tokens"][:3]
    begun = post(server, "/detokenize", model=model, tokens=first)["prompt"]
    cut = post(server, "/v2/rerank", **body, documents=[DOCUMENTS[0]])
    assert cut["results"][0]["document"]["text"] == DOCUMENTS[0]
    whole = post(server, "/v2/rerank", **body | {"max_tokens_per_doc": 1000}, documents=[begun, DOCUMENTS[0]])["results"]
    scores = {result["index"]: result["relevance_score"] for result in whole}
    assert cut["results"][0]["relevance_score"] == pytest.approx(scores[0], abs=1e-5)
    assert scores[0] != pytest.approx(scores[1], abs=1e-5)
    assert cut["meta"]["api_version"]["version"] == "2"


def test_a_bi_encoder_reranks_by_cosine(server):
    scores = {
        result["index"]: result["relevance_score"]
        for result in post(server, "/v1/rerank", model="tiny-embed", query="the world", documents=DOCUMENTS)["results"]
    }
    query, documents = embed(server, ["the world"]), embed(server, DOCUMENTS)
    assert [scores[index] for index in range(4)] == pytest.approx((documents @ query[0]).tolist(), abs=1e-5)


def test_a_bi_encoder_reranks_with_its_prompts(server):
    results = post(server, "/v1/rerank", model="prompted", query="the world", documents=DOCUMENTS)["results"]
    scores = [entry["relevance_score"] for entry in sorted(results, key=lambda entry: entry["index"])]
    query = embed(server, ["the world"], "prompted", input_type="query")
    documents = embed(server, DOCUMENTS, "prompted", input_type="document")
    assert scores == pytest.approx((documents @ query[0]).tolist(), abs=1e-5)


@pytest.mark.parametrize("model", ["tiny-embed", "reranker"])
def test_score(server, model):
    one = post(server, "/v1/score", model=model, text_1="the world", text_2=DOCUMENTS)["data"]
    assert [entry["index"] for entry in one] == [0, 1, 2, 3]
    each = post(server, "/v1/score", model=model, text_1=["the world"] * 4, text_2=DOCUMENTS)["data"]
    assert [entry["score"] for entry in one] == pytest.approx([entry["score"] for entry in each], abs=1e-5)
    single = post(server, "/score", model=model, text_1="the world", text_2=DOCUMENTS[1])["data"]
    assert single[0]["score"] == pytest.approx(one[1]["score"], abs=1e-5)


def test_scores_before_activation(server):
    body = {"model": "reranker", "text_1": "the world", "text_2": "Hello"}
    (activated,), (raw,) = post(server, "/v1/score", **body)["data"], post(server, "/v1/score", **body, use_activation=False)["data"]
    assert activated["score"] == pytest.approx(1 / (1 + np.exp(-raw["score"])), abs=1e-5)


def test_classify(server):
    answer = post(server, "/v1/classify", model="moods", input=["Hello", "the world of words"])
    assert [entry["index"] for entry in answer["data"]] == [0, 1]
    for entry in answer["data"]:
        assert sum(entry["probs"]) == pytest.approx(1, abs=1e-5)
        assert entry["num_classes"] == 3
        assert entry["object"] == "classification"
        assert entry["label"] == entry["prediction"] == ["good", "bad", "odd"][int(np.argmax(entry["probs"]))]
        assert [one["score"] for one in entry["predictions"]] == pytest.approx(sorted(entry["probs"], reverse=True), abs=1e-6)
        assert entry["predictions"][0] == {"label": entry["prediction"], "score": entry["score"]}
    top = post(server, "/classify", model="moods", input="Hello", top_k=1)["data"][0]
    assert len(top["predictions"]) == 1
    assert len(top["probs"]) == 3
    pair = post(server, "/v1/classify", model="moods", input=[["the world", "of words"]])["data"]
    assert pair[0]["probs"] != pytest.approx(answer["data"][1]["probs"], abs=1e-4)
    ids = post(server, "/v1/classify", model="moods", input=[[5, 6, 7], [8]])["data"]
    assert len(ids) == 2


def test_prompts(server):
    plain = embed(server, ["Hello", "the world"], "prompted", prompt="")
    default, named = embed(server, "Hello", "prompted"), embed(server, "Hello", "prompted", prompt_name="default")
    assert default == pytest.approx(named, abs=1e-6)
    assert np.abs(default - plain[0]).max() > 1e-3
    own = embed(server, "Hello", "prompted", prompt="the query ")
    assert own == pytest.approx(embed(server, "Hello", "prompted", prompt_name="query"), abs=1e-6)
    assert own == pytest.approx(embed(server, "Hello", "prompted", input_type="search_query"), abs=1e-6)
    passage = embed(server, "Hello", "prompted", prompt_name="passage")
    assert passage == pytest.approx(embed(server, "Hello", "prompted", input_type="document"), abs=1e-6)


def test_input_types_change_nothing_where_a_model_makes_no_difference(server):
    assert embed(server, "Hello") == pytest.approx(embed(server, "Hello", input_type="query"), abs=1e-6)


def test_dimensions_are_cut_to_unit_length_in_both_encodings(server):
    whole, cut = embed(server, "Hello")[0], embed(server, "Hello", dimensions=8)[0]
    assert cut == pytest.approx(whole[:8] / np.linalg.norm(whole[:8]), abs=1e-5)
    coded = post(server, "/v1/embeddings", model="tiny-embed", input="Hello", dimensions=8, encoding_format="base64")["data"][0]
    assert np.frombuffer(base64.b64decode(coded["embedding"]), "<f4") == pytest.approx(cut, abs=1e-6)


def test_long_texts_are_cut_where_that_is_asked_for(server):
    long = "word " * 1000
    hello = post(server, "/v1/embeddings", model="tiny-embed", input="Hello")["usage"]["prompt_tokens"]
    for ask in ({"truncate_prompt_tokens": -1}, {"truncate": True}, {"truncate": "end"}):
        answer = post(server, "/v1/embeddings", model="tiny-embed", input=[long, "Hello"], **ask)
        assert answer["usage"]["prompt_tokens"] == 256 + hello
    ten = post(server, "/v1/embeddings", model="tiny-embed", input=[long], truncate_prompt_tokens=10)
    assert ten["usage"]["prompt_tokens"] == 10
    left = post(server, "/v1/embeddings", model="tiny-embed", input=["Hello " + long], truncate="START")
    right = post(server, "/v1/embeddings", model="tiny-embed", input=["Hello " + long], truncate="END")
    assert left["data"][0]["embedding"] != right["data"][0]["embedding"]
    ids = post(server, "/v1/embeddings", model="tiny-embed", input=list(range(5, 60)), truncate_prompt_tokens=10)
    assert ids["usage"]["prompt_tokens"] == 10
    reranked = post(server, "/v1/rerank", model="reranker", query="Hello", documents=[long], truncate_prompt_tokens=-1)
    assert reranked["usage"]["prompt_tokens"] == 130
    assert post(server, "/v1/classify", model="moods", input=["x" * 100_000], truncate=True)["data"]


def test_texts_seen_before_come_from_the_cache(server):
    def counts():
        return [server.metric(f"embedding_cache_{kind}_total", model_name="tiny-embed") for kind in ("hits", "misses")]

    before = counts()
    first = embed(server, ["never asked before", "nor this", "never asked before"])
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [0, 3]
    again = embed(server, ["never asked before"], dimensions=4)
    assert [now - then for now, then in zip(counts(), before, strict=True)] == [1, 3]
    assert again[0] == pytest.approx(first[0][:4] / np.linalg.norm(first[0][:4]), abs=1e-5)
    assert first[0].tolist() == first[2].tolist()


def test_the_cache_keeps_what_was_used_last():
    cache = VectorCache(3 * (300 + 400))
    for name in b"abc":
        cache.put(bytes([name]), np.full(100, name, dtype=np.float32))
    assert cache.get(b"a") is not None
    cache.put(b"d", np.zeros(100, dtype=np.float32))
    assert cache.get(b"b") is None
    assert [cache.get(key) is not None for key in (b"a", b"c", b"d")] == [True, True, True]
    assert cache.held == 3 * 700
    assert len(cache) == 3


def test_nothing_is_cached_or_counted_where_that_is_switched_off(start):
    server = start("builtin://tiny-embed", embedding_cache_bytes=0, report_usage=False)
    for _ in range(2):
        answer = post(server, "/v1/embeddings", model="tiny-embed", input="Hello")
    assert answer["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    assert post(server, "/v1/rerank", model="tiny-embed", query="a", documents=["b"])["usage"]["total_tokens"] == 0
    assert server.metric("embedding_cache_hits_total") == 0
    assert server.metric("prompt_tokens_total") > 0, "metrics count all the same"


def test_batches_and_waits_are_measured_by_capability(server):
    post(server, "/v1/rerank", model="reranker", query="a", documents=["b", "c"])
    post(server, "/v1/classify", model="moods", input=["a"])
    for model, capability in (("reranker", "rerank"), ("moods", "classify"), ("tiny-embed", "embeddings")):
        for name in ("batch_items_count", "batch_tokens_sum", "capability_batch_wait_seconds_count"):
            assert server.metric(name, model_name=model, capability=capability) > 0, (model, name)
    for model, capability in (("reranker", "rerank"), ("moods", "classify")):
        assert server.metric("capability_queue_wait_seconds_count", model_name=model, capability=capability) > 0


async def test_a_request_of_thousands_does_not_hold_up_a_small_one(server):
    """Small requests are answered, one after the other, while the large one is worked on."""
    async with httpx.AsyncClient(base_url=server.url, timeout=120) as client:

        async def ask(texts: list[str]) -> None:
            response = await client.post("/v1/embeddings", json={"model": "tiny-embed", "input": texts, "encoding_format": "base64"})
            assert response.status_code == 200

        large = asyncio.create_task(ask([f"{'word ' * 200}{index}" for index in range(2048)]))
        small = 0
        while not large.done():
            await ask([f"a text that nobody else has {small}"])
            small += 1
    assert small > 5


async def test_one_process_serves_all_kinds_at_once(server):
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        bodies = [
            ("/v1/embeddings", {"model": "tiny-embed", "input": "Hello"}),
            ("/v1/rerank", {"model": "reranker", "query": "a", "documents": DOCUMENTS}),
            ("/v1/score", {"model": "tiny-embed", "text_1": "a", "text_2": DOCUMENTS}),
            ("/v1/classify", {"model": "moods", "input": DOCUMENTS}),
        ] * 10
        answers = await asyncio.gather(*(client.post(path, json=body) for path, body in bodies))
    assert {answer.status_code for answer in answers} == {200}
    assert threading.active_count() < 100
