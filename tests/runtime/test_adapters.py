"""LoRA adapters over HTTP: asked for as model:adapter, at start and at run time."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest
import torch
from modelyard_runtime.errors import ArgumentsInvalid, UnsupportedModel, WeightsNotFound
from modelyard_runtime.sources.tiny import make_chat
from safetensors.torch import load_file, save_file

from .conftest import Running, running, wait_until
from .refusals import TYPES, assert_error
from .tiny_adapters import adapter


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base")
    make_chat(path)
    return path


@pytest.fixture(scope="module")
def server(settings, folder, tmp_path_factory) -> Iterator[Running]:
    place = tmp_path_factory.mktemp("adapters")
    named = [f"{name}=file://{adapter(folder, place / name, seed)}" for name, seed in (("sql", 1), ("tone", 2))]
    allowed = ("file:///*", "builtin://tiny-chat")
    with running(settings(f"file://{folder}", served_model_name="assistant", adapter=tuple(named), allow_pull=allowed)) as one:
        yield one


def answer(server: Running, model: str, headers: dict[str, str] | None = None) -> str:
    reply = server.openai().chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Hello"}], temperature=0, max_tokens=12, extra_headers=headers
    )
    assert reply.model == model
    return reply.choices[0].message.content


def test_each_adapter_answers_in_its_own_way(server):
    answers = [answer(server, name) for name in ("assistant", "assistant:sql", "assistant:tone")]
    assert len(set(answers)) == 3
    assert answer(server, "assistant:sql") == answers[1]


def test_adapters_are_listed_under_their_model(server):
    listed = {model.id: (model.model_extra or {}).get("parent") for model in server.openai().models.list().data}
    assert listed == {"assistant": None, "assistant:sql": "assistant", "assistant:tone": "assistant"}


def test_one_is_described_by_its_name_and_what_is_none_is_not_found(server):
    models = server.openai().models
    assert (models.retrieve("assistant:sql").id, models.retrieve("assistant").id) == ("assistant:sql", "assistant")
    with pytest.raises(openai.NotFoundError, match=r"no adapter 'nope'\. It has sql, tone"):
        models.retrieve("assistant:nope")


def test_they_are_known_before_their_model_is_loaded(settings, folder, tmp_path):
    source = f"sql=file://{adapter(folder, tmp_path / 'sql', 1)}"
    with running(settings(f"file://{folder}", served_model_name="assistant", adapter=(source,), lazy=True)) as lazy:
        assert [model.id for model in lazy.openai().models.list().data] == ["assistant", "assistant:sql"]
        assert httpx.get(f"{lazy.url}/v1/models/assistant:nope").status_code == 404
        refused = httpx.post(f"{lazy.url}/v1/completions", json={"model": "assistant:nope", "prompt": "Hello", "max_tokens": 1})
        assert (refused.status_code, lazy.openai().models.retrieve("assistant").model_extra["status"]) == (404, "unloaded")
        assert answer(lazy, "assistant:sql") != answer(lazy, "assistant")


def test_ollamas_clients_name_adapters_too(server):
    body = {"model": "assistant:sql", "messages": [{"role": "user", "content": "Hello"}], "stream": False}
    reply = httpx.post(f"{server.url}/api/chat", json={**body, "options": {"temperature": 0, "num_predict": 12}})
    assert reply.json()["message"]["content"] == answer(server, "assistant:sql")
    missing = httpx.post(f"{server.url}/api/chat", json={**body, "model": "assistant:other"})
    assert (missing.status_code, "has no adapter 'other'" in missing.json()["error"]) == (404, True)


def test_the_adapters_in_use_are_metrics(server):
    body = {"model": "assistant:tone", "prompt": "Hello", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as reply:
        lines = reply.iter_lines()  # kept: the answer is closed with it
        next(lines)
        shown = server.metric("lora_requests_info", running_lora_adapters="tone", waiting_lora_adapters="", max_lora="2")
    assert shown > 1e9


def test_an_unknown_adapter_is_not_found_and_named(server):
    with pytest.raises(openai.NotFoundError, match=r"no adapter 'other'\. It has sql, tone"):
        answer(server, "assistant:other")


def test_what_the_gateway_routed_may_be_an_alias_with_a_colon(server):
    routed = {"x-modelyard-model": "assistant"}
    assert answer(server, "llama3.1:8b", routed) == answer(server, "assistant")
    assert answer(server, "default/assistant:sql", routed) == answer(server, "assistant:sql")


def test_adapters_come_and_go_while_the_model_serves(server, folder, tmp_path):
    admin = f"{server.private_url}/admin/models/assistant/adapters"
    made = httpx.post(admin, json={"name": "late", "source": f"file://{adapter(folder, tmp_path / 'late', 3)}"})
    assert (made.status_code, made.json()["data"]) == (200, ["late", "sql", "tone"])
    assert answer(server, "assistant:late") != answer(server, "assistant")
    assert httpx.get(admin).json()["data"] == ["late", "sql", "tone"]
    assert httpx.delete(f"{admin}/late").json()["data"] == ["sql", "tone"]
    with pytest.raises(openai.NotFoundError):
        answer(server, "assistant:late")


BAD = {
    "no such folder": ({"name": "a", "source": "file:///nowhere"}, 400, "source", "does not exist"),
    "not an adapter": ({"name": "a", "source": "builtin://tiny-chat"}, 400, "source", "adapter_config.json"),
    "a bad source": ({"name": "a", "source": "gpt2"}, 400, "source", "is not a source"),
    "a way up": ({"name": "a", "source": "file:///models/../etc"}, 400, "source", "without .."),
    "a NUL": ({"name": "a", "source": "file:///models/a\x00"}, 400, "source", "is not a source"),
    "not allowed": ({"name": "a", "source": "hf://org/adapter"}, 403, "source", "file:///*, builtin://tiny-chat"),
    "a bad name": ({"name": "a:b", "source": "file:///x"}, 400, "name", "match"),
    "no name": ({"source": "file:///x"}, 400, "name", "name"),
    "an unknown field": ({"name": "a", "source": "file:///x", "scale": 2}, 400, "scale", "scale"),
}


@pytest.mark.parametrize(("body", "status", "param", "words"), BAD.values(), ids=BAD.keys())
def test_bad_adapters_are_refused(server, body, status, param, words):
    reply = httpx.post(f"{server.private_url}/admin/models/assistant/adapters", json=body)
    assert_error(reply, status, TYPES[status], param, None, words)


def _add(server: Running, source: str) -> tuple[int, str]:
    reply = httpx.post(f"{server.private_url}/admin/models/assistant/adapters", json={"name": "odd", "source": source})
    return reply.status_code, reply.text


ODD: dict[str, tuple[dict[str, object], str]] = {
    "alpha in words": ({"lora_alpha": "much"}, "alpha"),
    "alpha left empty": ({"lora_alpha": None}, "alpha"),
    "alpha without bound": ({"lora_alpha": 10**400}, "alpha"),
    "alpha that is no number": ({"lora_alpha": float("nan")}, "alpha"),
    "a list of patterns": ({"alpha_pattern": [1]}, "alpha_pattern"),
    "a pattern in words": ({"alpha_pattern": {"q_proj": "x"}}, "alpha"),
    "no rank": ({"rank": 0}, "one rank from 1"),
}


@pytest.mark.parametrize(("config", "words"), ODD.values(), ids=ODD.keys())
def test_adapters_whose_config_makes_no_sense_are_refused(server, folder, tmp_path, config, words):
    status, text = _add(server, f"file://{adapter(folder, tmp_path / 'odd', 4, **config)}")
    assert (status, words in text) == (400, True), text


def test_a_config_without_end_is_refused(server, folder, tmp_path):
    path = adapter(folder, tmp_path / "odd", 4)
    (path / "adapter_config.json").write_text("[" * 100_000)
    assert _add(server, f"file://{path}")[0] == 400


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_adapters_that_are_no_numbers_are_refused(server, folder, tmp_path, value):
    path = adapter(folder, tmp_path / "odd", 4) / "adapter_model.safetensors"
    tensors = load_file(path)
    next(iter(tensors.values()))[0, 0] = value
    save_file(tensors, path)
    status, text = _add(server, f"file://{path.parent}")
    assert (status, "no number" in text) == (400, True), text


def test_a_path_that_no_system_takes_is_refused(server):
    status, text = _add(server, f"file:///{'a' * 300}")
    assert (status, "cannot be read" in text) == (400, True), text


def test_an_adapter_that_goes_while_its_request_waits_is_not_found(settings, folder, tmp_path):
    source = f"sql=file://{adapter(folder, tmp_path / 'sql', 1)}"
    made = settings(f"file://{folder}", served_model_name="assistant", adapter=(source,), max_concurrency=1)
    body = {"model": "assistant", "prompt": "Hello", "max_tokens": 1900, "ignore_eos": True, "stream": True}
    with running(made) as server, ThreadPoolExecutor(1) as pool:
        with httpx.stream("POST", f"{server.url}/v1/completions", json=body) as reply:
            lines = reply.iter_lines()  # kept: the answer is closed with it
            next(lines)
            waits = pool.submit(httpx.post, f"{server.url}/v1/completions", json={**body, "model": "assistant:sql", "stream": False})
            wait_until(lambda: server.metric("capability_requests_waiting", capability="completions") == 1, "it waits")
            httpx.delete(f"{server.private_url}/admin/models/assistant/adapters/sql").raise_for_status()
        reply = waits.result()
    assert (reply.status_code, reply.json()["error"]["param"]) == (404, "model")


def test_unknown_models_and_adapters_are_not_found(server):
    assert httpx.get(f"{server.private_url}/admin/models/nope/adapters").status_code == 404
    assert httpx.delete(f"{server.private_url}/admin/models/assistant/adapters/nope").status_code == 404


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [("file:///nowhere", WeightsNotFound, "does not exist"), ("builtin://tiny-embed", WeightsNotFound, "adapter_config.json")],
)
def test_a_bad_adapter_ends_the_start(settings, folder, source, error, words):
    with running(settings(f"file://{folder}", adapter=(f"a={source}",)), wait=False) as server:
        failure = server.join()
    assert isinstance(failure, error)
    assert words in failure.message


@pytest.mark.parametrize("option", [{"adapter": ("a=file:///nowhere",)}, {"quantization": "int8"}])
def test_what_a_model_would_ignore_ends_the_start(settings, option):
    with running(settings("builtin://tiny-embed", **option), wait=False) as server:
        failure = server.join()
    assert isinstance(failure, ArgumentsInvalid)
    assert "is a model for embeddings, which takes none" in failure.message


def test_an_adapter_of_another_model_ends_the_start(settings, folder, tmp_path):
    place = adapter(folder, tmp_path / "other", 1)
    save_file(
        {"base_model.model.x.lora_A.weight": torch.ones(1, 2), "base_model.model.x.lora_B.weight": torch.ones(2, 1)},
        place / "adapter_model.safetensors",
    )
    with running(settings(f"file://{folder}", adapter=(f"a=file://{place}",)), wait=False) as server:
        assert isinstance(server.join(), UnsupportedModel)
