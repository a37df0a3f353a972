"""Many models in one server: found by name, loaded once for all that wait, unloaded for others, never while they are used."""

import asyncio
import json
import shutil
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from modelyard.api.errors import ModelNotFound, Unavailable
from modelyard.api.reasons import Reason
from modelyard_runtime.api.admin import remove_model
from modelyard_runtime.errors import ArgumentsInvalid, WeightsNotFound
from modelyard_runtime.metrics import Exposition
from modelyard_runtime.progress import Phase
from modelyard_runtime.serving.catalogue import Entry
from modelyard_runtime.serving.registry import Registry
from modelyard_runtime.serving.runtime import Runtime
from modelyard_runtime.serving.specs import spec_of, specs_of
from modelyard_runtime.settings import ServeSettings
from modelyard_runtime.sources import builtin

from .conftest import Running, wait_until

CHAT, EMBED = "builtin://tiny-chat", "builtin://tiny-embed"


@pytest.fixture
def serve(start: Callable[..., Running], tmp_path: Path) -> Callable[..., Running]:
    """Starts a server of a catalogue's entries."""

    def begin(*entries: dict[str, object], wait: bool = True, **more: object) -> Running:
        path = tmp_path / "models.yaml"
        path.write_text(yaml.safe_dump({"models": list(entries)}))
        return start((), wait=wait, catalogue=path, **more)

    return begin


@pytest.fixture
def heavy(tmp_path: Path, cache_dir: Path) -> Callable[[str], str]:
    """Makes a tiny embedder whose files count as 256 MiB: a tensor of zeros that takes no disk and is never read."""
    origin = builtin.resolve("tiny-embed", cache_dir, (), lambda step: None)

    def make(name: str) -> str:
        folder = tmp_path / name
        shutil.copytree(origin, folder)
        header = json.dumps({"padding": {"dtype": "U8", "shape": [256 << 20], "data_offsets": [0, 256 << 20]}}).encode()
        with (folder / "padding.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + (256 << 20))
        return f"file://{folder}"

    return make


def embed(server: Running, model: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/embeddings", json={"model": model, "input": "Hello"}, timeout=60)


def chat(server: Running, model: str, **more: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2} | more
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60)


def states(server: Running) -> dict[str, str]:
    return {model["id"]: model["status"] for model in httpx.get(f"{server.url}/v1/models").json()["data"]}


def test_models_of_a_catalogue_load_when_they_are_asked_for(serve):
    server = serve(
        {"source": CHAT, "name": "assistant", "aliases": ["gpt-4o-mini"], "preload": True, "max_new_tokens": 3},
        {"source": EMBED, "max_queue": 7},
        {"source": CHAT, "name": "other", "capabilities": ["completions"]},
    )
    assert states(server) == {"assistant": "ready", "tiny-embed": "unloaded", "other": "unloaded"}
    assert embed(server, "tiny-embed").status_code == 200
    assert chat(server, "gpt-4o-mini").json()["model"] == "gpt-4o-mini"
    refused = chat(server, "assistant", max_tokens=4).json()["error"]
    assert "3 new tokens at most" in refused["message"], "a model has its own settings"
    assert chat(server, "other").json()["error"]["code"] == "unsupported_capability"
    assert states(server)["other"] == "unloaded", "what a model cannot do is known without loading it"
    unknown = chat(server, "walrus")
    assert unknown.status_code == 404
    assert "'assistant', 'tiny-embed', 'other'" in unknown.json()["error"]["message"]
    assert server.metric("request_success_total", model_name="tiny-embed") == 1
    assert server.metric("request_success_total", model_name="assistant") == 1
    models = server.progress()["models"]
    assert models["tiny-embed"]["warmup"]["embeddings"]["state"] == "done"
    assert server.progress()["phase"] == "ready"


def test_flags_name_several_models(start):
    server = start(("talker=builtin://tiny-chat", EMBED))
    assert states(server) == {"talker": "ready", "tiny-embed": "ready"}
    assert chat(server, "talker").status_code == 200
    assert embed(server, "tiny-embed").status_code == 200


def test_one_load_serves_all_who_wait(serve, caplog):
    server = serve({"source": EMBED, "name": "one"})
    with caplog.at_level("INFO", logger="modelyard_runtime"), ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda _: embed(server, "one").status_code, range(8)))
    assert answers == [200] * 8
    assert sum(record.getMessage() == "ready" for record in caplog.records) == 1


def test_a_failed_load_is_not_tried_again_for_a_while_and_then_is(serve, tmp_path, cache_dir):
    missing = tmp_path / "later"
    server = serve({"source": EMBED, "name": "here"}, {"source": f"file://{missing}", "name": "later"}, failure_cooldown="500ms")
    first, second = embed(server, "later"), embed(server, "later")
    assert [first.status_code, second.status_code] == [503, 503]
    assert first.json()["error"]["code"] == "model_failed"
    assert Reason.WEIGHTS_NOT_FOUND in first.json()["error"]["message"]
    assert str(tmp_path) not in first.text, "paths are for who runs the server"
    assert int(first.headers["retry-after"]) == 1
    assert embed(server, "here").status_code == 200, "others are served"
    assert httpx.get(f"{server.url}/ready").status_code == 200
    shutil.copytree(builtin.resolve("tiny-embed", cache_dir, (), lambda step: None), missing)
    wait_until(lambda: embed(server, "later").status_code == 200, "it is tried again")


def test_the_one_used_longest_ago_makes_room_and_pinned_ones_stay(serve, heavy):
    entries = [{"source": heavy(name), "name": name, "pinned": name == "pinned"} for name in ("pinned", "old", "new", "newest")]
    server = serve(*entries, memory_budget="900Mi")
    for name in ("pinned", "old", "new"):
        assert embed(server, name).status_code == 200
    assert embed(server, "old").status_code == 200
    assert embed(server, "newest").status_code == 200
    assert states(server) == {"pinned": "ready", "old": "ready", "new": "unloaded", "newest": "ready"}
    assert embed(server, "new").status_code == 200
    assert states(server)["old"] == "unloaded"


def test_what_can_never_fit_is_told(serve, heavy):
    server = serve({"source": heavy("big"), "name": "big"}, memory_budget="100Mi")
    answer = embed(server, "big")
    assert answer.status_code == 503
    assert Reason.OUT_OF_MEMORY in answer.json()["error"]["message"]


def test_a_model_in_use_is_not_unloaded_and_the_load_waits_for_it(serve, heavy, cache_dir):
    server = serve(
        {"source": CHAT, "name": "busy", "preload": True},
        {"source": heavy("next"), "name": "next", "queue_timeout": "5m"},
        memory_budget="257Mi",
    )
    body = {"model": "busy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 200, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response, ThreadPoolExecutor(1) as client:
        lines = response.iter_lines()
        next(lines)
        waiting = client.submit(embed, server, "next")
        wait_until(lambda: states(server)["next"] == "load", "its load has begun")
        assert states(server)["busy"] == "ready"
        assert sum(1 for _ in lines) > 50, "the stream goes on to its end"
        assert waiting.result().status_code == 200
    assert states(server) == {"busy": "unloaded", "next": "ready"}


def test_a_wait_for_room_ends(serve, heavy):
    server = serve(
        {"source": CHAT, "name": "busy", "preload": True},
        {"source": heavy("next"), "name": "next", "queue_timeout": "200ms"},
        memory_budget="257Mi",
    )
    body = {"model": "busy", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=body, timeout=60) as response:
        next(response.iter_lines())
        refused = embed(server, "next")
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    wait_until(lambda: embed(server, "next").status_code == 200, "it is tried again soon, for the memory is free now")


def test_idle_models_leave(serve):
    server = serve(
        {"source": EMBED, "name": "short", "idle_unload": "100ms", "preload": True}, {"source": EMBED, "name": "long", "preload": True}
    )
    wait_until(lambda: states(server) == {"short": "unloaded", "long": "ready"}, "it is unloaded")
    assert embed(server, "short").status_code == 200, "and comes back"


def test_a_preloaded_model_that_fails_leaves_the_others_alone(serve):
    server = serve({"source": "file:///nowhere/nothing", "preload": True}, {"source": EMBED, "preload": True})
    assert states(server) == {"nothing": "failed", "tiny-embed": "ready"}
    assert embed(server, "tiny-embed").status_code == 200


def test_a_process_none_of_whose_models_can_be_served_ends_with_the_cause(serve):
    server = serve(
        {"source": "file:///nowhere/nothing", "preload": True}, {"source": "file:///nowhere/neither", "preload": True}, wait=False
    )
    failure = server.join()
    assert failure is not None
    assert failure.reason is Reason.WEIGHTS_NOT_FOUND


def test_warm_up_is_bounded_by_lists_and_noted(serve):
    server = serve(
        {"source": CHAT, "name": "half", "preload": True, "warmup_skip": ["chat"], "warmup_steps": 2, "warmup_batch": 3},
        {"source": EMBED, "name": "cold", "preload": True, "warmup": ["chat"]},
    )
    models = server.progress()["models"]
    assert models["half"]["warmup"]["chat"]["state"] == "skipped"
    paths = models["half"]["warmup"]["completions"]["paths"]
    assert list(paths) == ["text", "long prompt", "steps"]
    assert {path["runs"] for path in paths.values()} == {2}
    assert models["cold"]["warmup"]["embeddings"] == {"state": "skipped", "why": "left out by the settings"}
    assert chat(server, "half").status_code == 200
    assert embed(server, "cold").status_code == 200


@pytest.mark.parametrize(("name", "ask"), [("tiny-embed", embed), ("tiny-chat", chat)])
def test_damaged_weights_of_the_cache_are_fetched_again(start, tmp_path, name, ask):
    folder = builtin.resolve(name, tmp_path, (), lambda step: None)
    (folder / "model.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    server = start(f"builtin://{name}", model_dir=(), cache_dir=tmp_path)
    assert ask(server, name).status_code == 200


async def test_an_engine_that_died_is_replaced_after_the_cool_down(settings: Callable[..., ServeSettings]):
    own = settings((f"one={EMBED}", f"two={EMBED}"), failure_cooldown="50ms")
    failures = []
    registry = Registry(own, specs_of(own), Exposition(), lambda model, failure: failures.append(model.name))
    model = registry.resolve("one")
    await registry.ready(model)
    dead = model.service
    registry.died(model, RuntimeError("the engine broke"))
    assert failures == ["one"]
    assert not model.loaded
    with pytest.raises(Unavailable) as refused:
        await registry.ready(model)
    assert refused.value.code == "model_failed"
    model.retry_at = 0.0
    await registry.ready(model)
    assert model.loaded
    assert model.service is not dead
    await registry.stop()


async def test_a_model_that_is_removed_is_not_loaded_again_while_it_ends(settings: Callable[..., ServeSettings]):
    runtime = Runtime(settings((f"one={EMBED}", f"two={EMBED}")))
    pulled = spec_of(Entry(source="builtin://tiny-rerank", name="pulled"), runtime.settings, "pull")
    model = runtime.registry.add(pulled)
    await runtime.registry.ready(model)
    leaving, left = asyncio.Event(), asyncio.Event()
    stop = model.service.stop

    async def slowly() -> None:
        leaving.set()
        await left.wait()
        await stop()

    model.service.stop = slowly
    removal = asyncio.create_task(remove_model(runtime, model))
    await leaving.wait()
    with pytest.raises(ModelNotFound):
        runtime.registry.resolve("pulled")
    runtime.registry.add(pulled)  # it has been pulled again meanwhile
    with pytest.raises(ModelNotFound):
        await remove_model(runtime, model)
    left.set()
    await removal
    assert runtime.registry.find("pulled") is not model
    await runtime.registry.stop()


async def test_a_server_that_takes_no_more_requests_loads_no_model_for_them(settings: Callable[..., ServeSettings]):
    registry = Runtime(settings((EMBED,), lazy=True)).registry
    registry.close()
    with pytest.raises(Unavailable) as refused:
        await registry.ready(registry.resolve("tiny-embed"))
    assert refused.value.code == "draining"
    assert registry.resolve("tiny-embed").loading is None


# Content of a catalogue → words of the refusal
BAD_CATALOGUES = {
    "empty": ("", "must be a mapping"),
    "no YAML": ("models: [", "line 1: not valid YAML"),
    "a tab": ("models:\n\t- source: x", "line 2: not valid YAML"),
    "not text": (b"\xff\xfe", "not valid YAML"),
    "a list": ("- source: x", "must be a mapping"),
    "no models": ("models: []", "line 1: models: Tuple should have at least 1 item"),
    "unknown key at the top": ("models: [{source: 'builtin://tiny-chat'}]\nport: x", "line 2: port: is not known here; known are models"),
    "unknown key": ("models:\n  - source: builtin://tiny-chat\n    colour: red", "line 3: models[0].colour: is not known here"),
    "misspelt key": (
        "models:\n  - source: builtin://tiny-chat\n    max_queu: 3",
        "line 3: models[0].max_queu: is not known here; did you mean max_queue?",
    ),
    "misspelt key at the top": ("model: x", "line 1: model: is not known here; did you mean models?"),
    "key twice": ("models:\n  - source: builtin://a\n    source: builtin://b", "line 3: source: given twice"),
    "no source": ("models:\n  - name: a", "line 2: models[0].source: is required"),
    "an entry that is text": ("models:\n  - builtin://tiny-chat", "line 2: models[0]: must be a mapping"),
    "no scheme": ("models:\n  - source: tiny-chat", "line 2: models[0].source: 'tiny-chat' is not a source; write builtin://tiny-chat"),
    "unknown scheme": ("models:\n  - source: ftp://x/y", "line 2: models[0].source: sources of kind ftp://"),
    "misspelt builtin": (
        "models:\n  - source: builtin://tiny-chat\n  - source: builtin://tiny-embd",
        "line 3: models[1].source: there is no builtin model called 'tiny-embd'; did you mean builtin://tiny-embed? There are: all-minilm",
    ),
    "bad number": (
        "models:\n  - source: builtin://tiny-chat\n    max_queue: many",
        "line 3: models[0].max_queue: Input should be a valid integer",
    ),
    "out of range": ("models:\n  - source: builtin://tiny-chat\n    max_queue: -1", "line 3: models[0].max_queue"),
    "no unit": ("models:\n  - source: builtin://tiny-chat\n    queue_timeout: 60", "30s, 5m"),
    "bad dtype": ("models:\n  - source: builtin://tiny-chat\n    dtype: int3", "line 3: models[0].dtype"),
    "bad capability": ("models:\n  - source: builtin://tiny-chat\n    capabilities: [swim]", "line 3: models[0].capabilities[0]"),
    "no boolean": ("models:\n  - source: builtin://tiny-chat\n    preload: perhaps", "line 3: models[0].preload"),
    "space in a name": ("models:\n  - source: builtin://tiny-chat\n    name: my model", "line 3: models[0].name"),
    "one name twice": ("models:\n  - source: builtin://tiny-chat\n  - source: builtin://tiny-chat", "two models are called 'tiny-chat'"),
    "an alias that is a name": (
        "models:\n  - source: builtin://tiny-chat\n  - source: builtin://tiny-embed\n    aliases: [tiny-chat]",
        "two models are called 'tiny-chat'",
    ),
    "a setting of the process": ("models:\n  - source: builtin://tiny-chat\n    port: 80", "line 3: models[0].port: is not known here"),
    "python": ("models: !!python/object/apply:os.system ['true']", "not valid YAML"),
    "deep": ("[" * 2000, "not valid YAML"),
    "too large": (b"#" * ((1 << 20) + 1), "larger than"),
}


@pytest.mark.parametrize("case", BAD_CATALOGUES)
def test_bad_catalogues_are_refused_with_the_line(case, tmp_path, settings):
    content, words = BAD_CATALOGUES[case]
    path = tmp_path / "models.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ArgumentsInvalid) as refused:
        specs_of(settings((), catalogue=path))
    assert words in refused.value.message


def test_a_misspelt_builtin_model_is_refused_before_anybody_asks_for_it(settings):
    with pytest.raises(WeightsNotFound) as refused:
        specs_of(settings((CHAT, "other=builtin://tiny-embd"), lazy=True))
    assert "did you mean builtin://tiny-embed?" in refused.value.remedy


BAD_FLAGS = {
    "nothing": ({"model": ()}, "--model is required"),
    "no file": ({"model": (), "catalogue": "/nowhere/models.yaml"}, "cannot read /nowhere/models.yaml"),
    "one name for two": ({"model": (CHAT, EMBED), "served_model_name": "a"}, "--served-model-name"),
    "one name for none": ({"model": (f"b={CHAT}", f"c={EMBED}"), "served_model_name": "a"}, "--served-model-name"),
    "one name twice": ({"model": (CHAT, CHAT)}, "two models are called 'tiny-chat'"),
}


@pytest.mark.parametrize("case", BAD_FLAGS)
def test_bad_flags_are_refused(case, settings):
    given, words = BAD_FLAGS[case]
    with pytest.raises(ArgumentsInvalid) as refused:
        specs_of(settings(**given))
    assert words in refused.value.message


async def test_a_server_whose_only_model_failed_is_never_shown_as_ready(tmp_path):
    runtime = Runtime(ServeSettings(model="file:///nowhere/nothing", cache_dir=tmp_path))
    running = asyncio.create_task(runtime.run())
    await runtime.ended.wait()
    for _ in range(10):  # what the start does after that
        await asyncio.sleep(0)
    assert runtime.failure is not None
    assert runtime.phase is Phase.RESOLVE
    running.cancel()
    await asyncio.wait({running})
    await runtime.registry.stop()
