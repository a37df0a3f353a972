"""What a new user does: apply the examples, look, ask, delete."""

import json
import math
import time

import ollama
import pytest
from conftest import MakeModel
from harness import ROOT, Model, eventually, exists, get, kubectl
from modelyard.api.names import METRICS_PORT
from openai import NotFoundError, OpenAI

CHILDREN = "deployments,services,serviceaccounts,poddisruptionbudgets,networkpolicies,pods"
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def examples(namespace: str) -> float:
    """The example models, applied and ready; returns the seconds until the assistant was."""
    started = time.monotonic()
    kubectl("-n", namespace, "apply", "-f", str(ROOT / "examples" / "cluster"))
    assistant, embedder = Model(namespace, "assistant", {}), Model(namespace, "embedder", {})
    assistant.wait_ready()
    seconds = time.monotonic() - started
    embedder.wait_ready()
    return seconds


def test_the_assistant_is_ready_within_a_minute(examples: float) -> None:
    print(f"ready after {examples:.1f} s")
    assert examples <= 60


def test_the_table_says_what_matters(examples: float, namespace: str) -> None:
    header, *rows = kubectl("-n", namespace, "get", "im").splitlines()
    assert header.split() == ["NAME", "READY", "REASON", "REPLICAS", "SOURCE", "URL", "AGE"]
    name, ready, reason, replicas, source, url, _ = rows[0].split()
    assert (name, ready, reason, replicas, source) == ("assistant", "True", "Ready", "1", "builtin://smollm2-135m-instruct")
    assert url.startswith("http://modelyard-gateway.modelyard-system.svc")


def test_models_are_listed(examples: float, openai: OpenAI) -> None:
    assert {"assistant", "embedder"} <= {model.id for model in openai.models.list()}


def test_chat(examples: float, openai: OpenAI) -> None:
    answer = openai.chat.completions.create(model="assistant", messages=QUESTION, max_tokens=24, temperature=0)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_chat_streamed_says_the_same(examples: float, openai: OpenAI) -> None:
    whole = openai.chat.completions.create(model="assistant", messages=QUESTION, max_tokens=24, temperature=0)
    chunks = list(
        openai.chat.completions.create(
            model="gpt-4o-mini", messages=QUESTION, max_tokens=24, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert len(chunks) > 5
    # How much of the prompt was found in the cache depends on what the model answered before.
    counts = {"prompt_tokens", "completion_tokens", "total_tokens"}
    assert chunks[-1].usage is not None
    assert whole.usage is not None
    assert chunks[-1].usage.model_dump(include=counts) == whole.usage.model_dump(include=counts)


def test_completions(examples: float, openai: OpenAI) -> None:
    answer = openai.completions.create(model="assistant", prompt="1, 2, 3, 4,", max_tokens=8, temperature=0)
    assert "5" in answer.choices[0].text
    assert answer.choices[0].finish_reason == "length"


def test_embeddings_know_what_is_alike(examples: float, openai: OpenAI) -> None:
    texts = ["A cat sleeps on the sofa.", "A kitten naps on the couch.", "Interest rates rose by a quarter of a percent."]
    cat, kitten, rates = (item.embedding for item in openai.embeddings.create(model="embedder", input=texts).data)
    assert math.isclose(math.hypot(*cat), 1, rel_tol=1e-3)
    assert _dot(cat, kitten) > _dot(cat, rates) + 0.2


def test_ollamas_client(examples: float, gateway: str, namespace: str) -> None:
    with ollama.Client(gateway, timeout=120) as client:
        listed = {model.model for model in client.list().models}
        assert {"assistant:latest", "gpt-4o-mini:latest", "embedder:latest"} <= listed
        assert {"assistant:latest", "embedder:latest"} <= {model.model for model in client.ps().models}
        options = {"num_predict": 24, "temperature": 0}
        for name in ("assistant", "gpt-4o-mini:latest", f"{namespace}/assistant"):
            assert "Paris" in (client.chat(name, QUESTION, options=options).message.content or "")
        lines = list(client.chat("assistant", QUESTION, options=options, stream=True))
        assert "Paris" in "".join(line.message.content or "" for line in lines)
        assert lines[-1].done
        [vector] = client.embed("embedder", "A cat sleeps on the sofa.").embeddings
        assert math.isclose(math.hypot(*vector), 1, rel_tol=1e-3)
        assert "completion" in (client.show("assistant").capabilities or [])
        with pytest.raises(ollama.ResponseError, match="InferenceModels"):
            client.delete("assistant")


def test_a_replica_knows_its_limit(examples: float, namespace: str) -> None:
    [pod] = Model(namespace, "assistant", {}).pods()
    address = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}:{METRICS_PORT}/proxy/admin/diagnostics"
    memory = json.loads(kubectl("get", "--raw", address))["memory"]
    assert pod["spec"]["containers"][0]["resources"]["limits"]["memory"] == "2Gi"
    assert memory["limit"] == 2 * 2**30
    assert 0 < memory["available"] < memory["limit"]


def test_a_deleted_model_leaves_nothing(make_model: MakeModel, openai: OpenAI) -> None:
    model = make_model("leaver")
    model.wait_ready()
    assert openai.chat.completions.create(model=model.key, messages=QUESTION, max_tokens=2).choices
    selector = ("-n", model.namespace, CHILDREN, "-l", "modelyard.dev/model=leaver")
    assert {item["kind"] for item in get(*selector)["items"]} == {
        "Deployment", "Service", "ServiceAccount", "PodDisruptionBudget", "NetworkPolicy", "Pod",
    }  # fmt: skip

    kubectl("-n", model.namespace, "delete", "im", "leaver")

    eventually(lambda: not exists(*selector), seconds=90)
    with pytest.raises(NotFoundError) as refusal:
        openai.chat.completions.create(model="leaver", messages=QUESTION)
    assert refusal.value.code == "model_not_found"
    assert json.loads(refusal.value.response.text)["error"]["type"] == "invalid_request_error"


def _dot(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
