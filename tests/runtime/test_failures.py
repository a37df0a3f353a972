"""Failures while it starts or serves: each ends where it should, with its cause."""

import shutil
import threading
from contextlib import suppress

import httpx
import numpy as np
import psutil
from modelyard.api.reasons import Reason
from modelyard_runtime.engine.runner import Runner
from modelyard_runtime.models.templates import TemplateRenderer
from modelyard_runtime.sources.resolve import resolve
from safetensors.numpy import load_file, save_file

from .conftest import wait_until

HELLO = {"model": "tiny-chat", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def test_a_model_that_computes_no_numbers_fails_its_warm_up(start, cache_dir, tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(resolve("builtin://tiny-embed", cache_dir=cache_dir, progress=lambda step: None), folder)
    weights = load_file(folder / "model.safetensors")
    weights["embeddings.LayerNorm.bias"] = np.full_like(weights["embeddings.LayerNorm.bias"], np.nan)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    failure = start(f"file://{folder}", wait=False).join()
    assert failure.reason is Reason.WARMUP_FAILED
    assert "not numbers" in failure.message


def test_a_dead_engine_ends_the_process_with_the_cause(start, monkeypatch):
    server = start()

    def fail(*_):
        raise RuntimeError("the device fell off the bus")

    monkeypatch.setattr(Runner, "forward", fail)
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO)
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "engine_failed"
    assert "bus" not in answer.text
    failure = server.join()
    assert failure.reason is Reason.CRASH_LOOP
    assert "fell off the bus" in failure.message


def test_an_engine_that_stumbles_once_goes_on_with_new_requests(start, monkeypatch):
    server = start()
    forward, calls = Runner.forward, []

    def stumble(self, work):
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("a cosmic ray")
        return forward(self, work)

    monkeypatch.setattr(Runner, "forward", stumble)
    failed = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO | {"ignore_eos": True})
    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "engine_failed")
    assert "cosmic" not in failed.text
    assert httpx.post(f"{server.url}/v1/chat/completions", json=HELLO).status_code == 200
    assert httpx.get(f"{server.url}/health").status_code == 200


def test_a_step_that_never_ends_ends_the_process(start, monkeypatch):
    server = start(engine_step_timeout="1s")
    go_on, forward = threading.Event(), Runner.forward

    def hang(self, work):
        go_on.wait()
        return forward(self, work)

    monkeypatch.setattr(Runner, "forward", hang)
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO, timeout=30)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_failed")
    failure = server.join()
    go_on.set()
    assert failure.reason is Reason.CRASH_LOOP
    assert "did not end within 1 s" in failure.message


def test_a_stream_that_an_engine_s_death_ends_says_so(start, monkeypatch):
    server = start()
    with httpx.stream(
        "POST", f"{server.url}/v1/chat/completions", json=HELLO | {"max_tokens": 2000, "ignore_eos": True, "stream": True}
    ) as response:
        lines = response.iter_lines()
        next(lines)
        monkeypatch.setattr(Runner, "forward", lambda *_: 1 / 0)
        rest = [line for line in lines if line]
    assert '"engine_failed"' in rest[-1]
    assert server.join().reason is Reason.CRASH_LOOP


def test_a_base_model_serves_completions_alone(start, cache_dir, tmp_path):
    folder = tmp_path / "base"
    shutil.copytree(resolve("builtin://tiny-chat", cache_dir=cache_dir, progress=lambda step: None), folder)
    text = (folder / "tokenizer_config.json").read_text()
    (folder / "tokenizer_config.json").write_text(text.replace('"chat_template"', '"no_template"'))
    server = start(f"file://{folder}", served_model_name="base")
    assert server.progress()["capabilities"] == ["completions"]
    assert server.openai().completions.create(model="base", prompt="Hello", max_tokens=2).usage.completion_tokens == 2
    forced = start(f"file://{folder}", capability="chat", wait=False).join()
    assert forced.reason is Reason.UNSUPPORTED_MODEL
    assert "--capability completions" in forced.remedy


def test_a_conversation_that_the_template_refuses_is_the_client_s_error(start, cache_dir, tmp_path):
    folder = tmp_path / "strict"
    shutil.copytree(resolve("builtin://tiny-chat", cache_dir=cache_dir, progress=lambda step: None), folder)
    (folder / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    server = start(f"file://{folder}", served_model_name="tiny-chat")
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=HELLO)
    assert answer.status_code == 400
    assert "roles must alternate" in answer.json()["error"]["message"]
    wait_until(lambda: server.metric("num_requests_running") == 0, "nothing is left")


def test_the_schema_of_the_api_is_served(chat):
    paths = httpx.get(f"{chat.url}/openapi.json").json()["paths"]
    assert {"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/models"} <= set(paths)


def renderers():
    """Processes of this one that render chat templates, by their ids."""
    children = psutil.Process().children()
    return {child.pid: child for child in children if "template_worker" in " ".join(child.cmdline())}


def test_a_template_process_that_is_stopped_is_no_fault_of_the_request(start, monkeypatch):
    before = renderers()
    server = start()
    monkeypatch.setattr(TemplateRenderer, "seconds", 0.3)
    url = f"{server.url}/v1/chat/completions"

    def stop():
        for pid, process in renderers().items():
            if pid not in before:
                process.suspend()

    stop()
    assert httpx.post(url, json=HELLO, timeout=60).status_code == 200
    stop()
    over = threading.Event()

    def keep_stopping():
        while not over.wait(0.001):
            with suppress(psutil.NoSuchProcess):
                stop()

    monkeypatch.setattr("modelyard_runtime.child._START_SECONDS", 0.5)
    stopper = threading.Thread(target=keep_stopping)
    stopper.start()
    answer = httpx.post(url, json=HELLO, timeout=60)
    over.set()
    stopper.join()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    assert answer.json()["error"]["code"] == "template_process_failed"
    monkeypatch.undo()
    assert httpx.post(url, json=HELLO, timeout=60).status_code == 200
