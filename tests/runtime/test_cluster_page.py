"""docs/cluster.md: its manifests are planned, and the servers that come of them answer as the page says."""

import re
from pathlib import Path

import httpx
import pytest
from modelyard.api.names import MODEL_HEADER
from modelyard.api.validation import load_manifests
from modelyard.controller.builders.arguments import arguments
from modelyard_runtime.arguments import parse

PAGE = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
MANIFESTS = {
    model.metadata.name: model
    for text in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for model in load_manifests(text, "docs/cluster.md")
}


@pytest.fixture
def planned(cache_dir, start):
    """Starts the server of a manifest's pod, here."""

    def run(name):
        place = ["--host=127.0.0.1", "--port=0", "--metrics-port=0", f"--cache-dir={cache_dir}"]
        settings = parse(["serve", *arguments(MANIFESTS[name]), *place])
        given = {field: getattr(settings, field) for field in settings.model_fields_set - {"model", "settle_time"}}
        return start(settings.model, **given)

    return run


def test_the_pages_manifests_are_these():
    assert MANIFESTS.keys() == {"eyes", "assistant"}


def test_several_models_share_a_pod_each_under_its_name(planned):
    server = planned("assistant")
    routed = {MODEL_HEADER: "assistant"}  # what the gateway says of every name that leads to this manifest

    def ask(path, **body):
        answer = httpx.post(f"{server.url}{path}", json=body, headers=routed, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    assert set(MANIFESTS["assistant"].spec.model.aliases) < server.progress()["models"].keys()
    chat = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
    for name in ("assistant", "default/assistant"):
        assert ask("/v1/chat/completions", model=name, **chat)["choices"]
    assert ask("/v1/embeddings", model="vectors", input="Hello")["data"]
    assert ask("/v1/rerank", model="judge", query="Hello", documents=["Hello", "Farewell"])["results"]


def test_images_are_fetched_from_the_hosts_of_the_manifest_alone(planned):
    server = planned("eyes")
    image = {"type": "image_url", "image_url": {"url": "https://elsewhere.example.com/a.png"}}
    body = {"model": "eyes", "messages": [{"role": "user", "content": [image]}]}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert answer.status_code == 400
    assert "it fetches from images.example.com, *.cdn.example.com" in answer.json()["error"]["message"]
    body["messages"][0]["content"] = [image] * 5
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)
    assert "4 images in a request at most" in answer.json()["error"]["message"]
