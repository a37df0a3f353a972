"""The `ollama` package as its users have it, through the gateway to a real runtime with small models."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import ollama
import pytest
from modelyard.gateway.types import Endpoint, ModelRecord

MODELS = {"assistant": "builtin://tiny-chat", "embedder": "builtin://tiny-embed", "judge": "builtin://tiny-rerank"}
HELLO = [{"role": "user", "content": "Hello"}]
FEW = {"num_predict": 4, "temperature": 0}
Start = Callable[..., Awaitable[Any]]


@pytest.fixture(scope="module")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A runtime of its own process that serves all models."""
    folder = tmp_path_factory.mktemp("runtime")
    models = [f"--model={name}={source}" for name, source in MODELS.items()]
    command = ["serve", *models, "--host=127.0.0.1", "--port=0", "--metrics-port=0", f"--cache-dir={folder}", "--settle-time=0s"]
    environment = {**os.environ, "MODELYARD_TERMINATION_LOG": str(folder / "termination")}
    run = [sys.executable, "-m", "modelyard_runtime.main", *command]
    with subprocess.Popen(run, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        records = (json.loads(line) for line in process.stderr if line.startswith("{"))
        port = next(record["port"] for record in records if record["message"] == "listening")
        for _ in MODELS:
            assert next(record for record in records if record["message"] == "ready")
        rest = threading.Thread(target=process.stderr.read)
        rest.start()
        yield Endpoint("127.0.0.1", port)
        process.terminate()
        rest.join()


@pytest.fixture
async def served(gateway: Start, runtime: Endpoint) -> Any:
    """A gateway in front of it."""
    setup = await gateway()
    setup.directory.remove_model("default/assistant")
    for age, name in enumerate(MODELS):
        aliases = ("llama3.2:1b", "gpt") if name == "assistant" else ()
        record = ModelRecord(f"default/{name}", aliases=aliases, created=f"2026-01-0{age + 1}T00:00:00Z", keepalive=0.02)
        setup.directory.set_model(record)
        setup.directory.set_endpoints(record.key, frozenset({runtime}))
    return setup


@pytest.fixture
async def client(served: Any) -> AsyncIterator[ollama.AsyncClient]:
    async with ollama.AsyncClient(f"http://127.0.0.1:{served.gateway.port}") as one:
        yield one


@pytest.mark.parametrize("name", ["assistant", "assistant:latest", "default/assistant", "llama3.2:1b", "gpt:latest"])
async def test_chat(client, name):
    answer = await client.chat(name, HELLO, options=FEW)
    assert (answer.model, answer.done, answer.eval_count) == (name, True, 4)
    assert answer.message.content
    streamed = [line async for line in await client.chat(name, HELLO, options=FEW, stream=True)]
    assert "".join(line.message.content for line in streamed) == answer.message.content
    assert [line.done for line in streamed].count(True) == 1


async def test_generate_and_embed_and_show(client):
    whole = await client.generate("assistant", "Hello", raw=True, options=FEW)
    lines = [line async for line in await client.generate("assistant", "Hello", raw=True, options=FEW, stream=True)]
    assert "".join(line.response for line in lines) == whole.response
    vectors = await client.embed("embedder", ["Hello", "the world"])
    old = await client.embeddings("embedder:latest", "Hello")
    assert [len(vector) for vector in vectors.embeddings] == [64, 64]
    assert old.embedding == pytest.approx(vectors.embeddings[0])
    assert (await client.show("assistant")).capabilities == ["completion"]


async def test_lists_are_the_gateways_own(client, served):
    listed = (await client.list()).models
    assert [model.model for model in listed] == ["assistant:latest", "llama3.2:1b", "gpt:latest", "embedder:latest", "judge:latest"]
    assert listed[0].modified_at.year == 2026
    assert listed[0].digest == listed[1].digest != listed[3].digest
    served.directory.set_endpoints("default/embedder", frozenset())
    assert [model.model for model in (await client.ps()).models] == ["assistant:latest", "judge:latest"]


async def test_a_stream_of_a_model_at_zero_is_kept_alive(client, served, runtime, until):
    served.directory.set_endpoints("default/assistant", frozenset())
    stream = await client.chat("assistant", HELLO, options=FEW, stream=True)
    asking = asyncio.ensure_future(anext(stream))  # its request goes out with the first look
    await until(lambda: served.gateway.demand().get("default/assistant") is not None)
    await until(lambda: any(one._exchange and one._exchange.started for one in served.gateway._service.connections))
    served.directory.set_endpoints("default/assistant", frozenset({runtime}))
    lines = [await asking, *[line async for line in stream]]
    assert lines[-1].done
    assert lines[-1].eval_count == 4


async def test_an_answer_of_a_model_at_zero_is_waited_for(client, served, runtime, until):
    served.directory.set_endpoints("default/embedder", frozenset())
    asking = asyncio.ensure_future(client.embed("embedder", "Hello"))
    await until(lambda: served.gateway.demand().get("default/embedder") is not None)
    served.directory.set_endpoints("default/embedder", frozenset({runtime}))
    assert len((await asking).embeddings) == 1


async def test_errors_are_raised_with_what_they_say(client, served):
    with pytest.raises(ollama.ResponseError, match=r"'nope' does not exist\. Available: assistant") as caught:
        await client.chat("nope", HELLO)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="not made for") as caught:
        await client.chat("embedder", HELLO)
    assert caught.value.status_code == 400
    served.directory.set_model(ModelRecord("default/assistant", blocked="WeightsNotFound: no such repository"))
    served.directory.set_endpoints("default/assistant", frozenset())
    with pytest.raises(ollama.ResponseError, match="WeightsNotFound") as caught:
        await client.chat("assistant", HELLO, stream=False)
    assert caught.value.status_code == 503


async def test_an_error_inside_a_stream_is_raised(client, served):
    served.directory.set_model(ModelRecord("default/assistant", keepalive=0.02, max_wait=0.1))
    served.directory.set_endpoints("default/assistant", frozenset())
    with pytest.raises(ollama.ResponseError, match="No replica"):
        async for _ in await client.chat("assistant", HELLO, stream=True):
            pass


@pytest.mark.parametrize("operation", ["pull", "delete", "push"])
async def test_what_would_change_models_is_refused(client, operation):
    with pytest.raises(ollama.ResponseError, match="InferenceModels") as caught:
        await getattr(client, operation)("assistant")
    assert caught.value.status_code == 403


#: What the other paths that the gateway did not know before are asked, and a field of the answer.
ROOT = {
    "/tokenize": ({"model": "assistant", "prompt": "Hello"}, "count"),
    "/detokenize": ({"model": "gpt", "tokens": [72, 101]}, "prompt"),
    "/rerank": ({"model": "judge", "query": "a", "documents": ["a", "b"]}, "results"),
    "/v2/rerank": ({"model": "default/judge", "query": "a", "documents": ["a", "b"]}, "results"),
    "/v1/rerank": ({"model": "judge", "query": "a", "documents": ["a", "b"]}, "results"),
    "/v1/score": ({"model": "judge", "text_1": "a", "text_2": ["a", "b"]}, "data"),
    "/score": ({"model": "judge", "text_1": "a", "text_2": ["a", "b"]}, "data"),
}


@pytest.mark.parametrize("path", ROOT)
async def test_other_paths_of_the_runtime(served, path):
    body, field = ROOT[path]
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.gateway.port}") as one:
        reply = await one.post(path, json=body)
    assert (reply.status_code, field in reply.json()) == (200, True), reply.text
