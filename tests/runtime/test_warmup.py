"""Warm-up: which ways are run, in which order, when it stops, and what is said of it."""

import numpy as np
import pytest
from modelyard.api.errors import InvalidRequest
from modelyard_runtime.errors import WarmupFailed
from modelyard_runtime.serving.warmup import Way, warm_up

from .conftest import Running


class Ways:
    """Ways that note when they are run."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[np.ndarray] = []

    def __call__(self, name: str, *, takes: int = 0, fails: Exception | None = None) -> Way:
        async def run() -> None:
            self.ran.append(name)
            self.kept.append(np.ones(takes, dtype=np.uint8))
            if fails is not None:
                raise fails

        return Way(name, run)


@pytest.fixture
def way() -> Ways:
    return Ways()


async def test_the_small_ways_of_all_capabilities_come_first_and_shared_ones_once(way, settings):
    notes = {}
    ways = {"chat": [way("a"), way("b"), way("shared")], "completions": [way("c"), way("shared")]}
    await warm_up(ways, settings(), notes)
    assert way.ran == ["a", "c", "b", "shared"]
    assert list(notes["completions"]["paths"]) == ["c", "shared"]
    assert notes["chat"]["state"] == notes["completions"]["state"] == "done"
    assert notes["chat"]["seconds"] == pytest.approx(sum(path["seconds"] for path in notes["chat"]["paths"].values()), abs=0.002)


async def test_a_memory_budget_leaves_out_what_would_come_next(way, settings):
    notes = {}
    ways = {"embeddings": [way("short", takes=256 << 20), way("long")], "rerank": [way("pair")]}
    await warm_up(ways, settings(warmup_memory="32Mi"), notes)
    assert way.ran == ["short"]
    why = notes["embeddings"]["why"]
    assert why.startswith("warm-up has taken ")
    assert why.endswith(" of its 32 MiB")
    assert notes["embeddings"]["state"] == "done"
    assert notes["embeddings"]["skipped"] == {"long": why}
    assert notes["rerank"] == {"state": "skipped", "seconds": 0.0, "paths": {}, "skipped": {"pair": why}, "why": why}


async def test_a_budget_that_holds_leaves_nothing_out(way, settings):
    notes = {}
    await warm_up({"embeddings": [way("short"), way("long")]}, settings(warmup_memory="1Gi"), notes)
    assert set(notes["embeddings"]) == {"state", "seconds", "paths"}


async def test_lists_choose_capabilities(way, settings):
    notes = {}
    ways = {"chat": [way("a")], "completions": [way("b")], "vision": [way("c")]}
    await warm_up(ways, settings(warmup=("chat", "completions"), warmup_skip=("completions",), warmup_steps=2), notes)
    assert way.ran == ["a", "a"]
    assert notes["vision"] == notes["completions"] == {"state": "skipped", "why": "left out by the settings"}


async def test_what_the_model_refuses_is_noted_and_what_fails_ends_the_start(way, settings):
    notes = {}
    refused = way("conversation", fails=InvalidRequest("it wants a system message"))
    await warm_up({"chat": [refused, way("steps")]}, settings(), notes)
    assert notes["chat"]["skipped"] == {"conversation": "it wants a system message"}
    with pytest.raises(WarmupFailed, match="chat, steps: RuntimeError: no numbers"):
        await warm_up({"chat": [refused, way("steps", fails=RuntimeError("no numbers"))]}, settings(), {})
    with pytest.raises(WarmupFailed, match="it wants a system message"):
        await warm_up({"chat": [refused]}, settings(), {})


def warmed(server: Running) -> dict[str, list[str]]:
    """Returns the ways that a server's model was warmed up by."""
    (model,) = server.progress()["models"].values()
    assert all(note["state"] == "done" and "skipped" not in note for note in model["warmup"].values()), model["warmup"]
    return {name: list(note["paths"]) for name, note in model["warmup"].items()}


@pytest.mark.parametrize(
    ("model", "ways"),
    [
        ("tiny-chat", {"chat": ["conversation", "schema", "long prompt", "steps"], "completions": ["text", "long prompt", "steps"]}),
        ("tiny-embed", {"embeddings": ["short embeddings", "long texts"], "rerank": ["short rerank", "long texts"]}),
        ("tiny-rerank", {"rerank": ["short rerank", "long texts"]}),
        ("tiny-classify", {"classify": ["short classify", "long texts"]}),
    ],
)
def test_each_capability_has_its_own_ways(start, model, ways):
    assert warmed(start(f"builtin://{model}")) == ways


def test_images_are_warmed_up_and_leave_no_trace(start):
    server = start("builtin://tiny-vision", warmup_batch=3)
    assert warmed(server)["vision"] == ["image", "long prompt", "steps"]
    for name in ("prompt_tokens_total", "generation_tokens_total", "prefix_cache_queries_total", "prefix_cache_hits_total"):
        assert server.metric(name) == 0
