"""A model that sleeps: no pods while nobody asks, and a request that waits while one starts."""

import time

import aiohttp
import ollama
import pytest
from conftest import MakeModel
from harness import Model, eventually
from openai import OpenAI

SCALING = {"minReplicas": 0, "maxReplicas": 1, "scaleDownDelay": "3s", "coldStart": {"maxWait": "2m", "keepalive": "1s"}}
QUESTION = [{"role": "user", "content": "Hello!"}]


def _asleep(model: Model) -> bool:
    status = model.get().get("status", {})
    return model.condition().get("reason") == "ScaledToZero" and status.get("replicas", 0) == 0 and not model.pods()


@pytest.fixture
def sleeper(make_model: MakeModel) -> Model:
    """A model at zero."""
    model = make_model("sleeper", scaling=SCALING)
    eventually(lambda: _asleep(model), seconds=60)
    return model


def test_a_request_wakes_it_and_silence_puts_it_back(sleeper: Model, openai: OpenAI) -> None:
    started = time.monotonic()
    answer = openai.chat.completions.create(model=sleeper.key, messages=QUESTION, max_tokens=4)
    print(f"answered after {time.monotonic() - started:.1f} s")
    assert answer.choices[0].finish_reason == "length"
    sleeper.wait_ready(10)

    eventually(lambda: _asleep(sleeper), seconds=60)
    decisions = sleeper.get()["status"]["scaling"]["decisions"]
    steps = [(decision["from"], decision["to"]) for decision in decisions]
    assert (0, 1) in steps
    assert steps[0] == (1, 0), "the newest decision comes first"
    assert all(decision["why"] for decision in decisions)


async def test_a_stream_is_kept_alive_while_it_waits(sleeper: Model, gateway: str) -> None:
    body = {"model": sleeper.key, "messages": QUESTION, "max_tokens": 4, "stream": True}
    async with aiohttp.ClientSession() as session, session.post(f"{gateway}/v1/chat/completions", json=body) as response:
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = [line.decode().strip() async for line in response.content if line.strip()]
    first_data = next(number for number, line in enumerate(lines) if line.startswith("data:"))
    assert first_data > 0, "no comment came before the first data"
    assert all(line.startswith(":") for line in lines[:first_data])
    assert lines[-1] == "data: [DONE]"


def test_ollamas_client_waits_for_it_in_a_stream(sleeper: Model, gateway: str) -> None:
    """What keeps its stream alive is nothing to a client that parses every line."""
    with ollama.Client(gateway, timeout=120) as client:
        lines = list(client.chat(sleeper.key, QUESTION, options={"num_predict": 4}, stream=True))
    assert lines[-1].done
    assert lines[-1].eval_count == 4
