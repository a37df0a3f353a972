"""Steps that only decode, as graphs replay them; here each is run in place of a recording, from the same tensors of fixed shape."""

import asyncio
from collections import Counter
from typing import Any

import pytest
import torch
from modelyard_runtime.engine import core
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams
from modelyard_runtime.engine.graphs import Called, Graph, Graphs, Run, buckets, graphs_for, is_plain_decode
from modelyard_runtime.engine.layout import Span
from modelyard_runtime.engine.paged import PagedCache
from modelyard_runtime.engine.scheduler import Work
from modelyard_runtime.engine.sequence import Sequence
from modelyard_runtime.engine.settings import EngineSettings


@pytest.mark.parametrize(
    ("rows", "sizes"), [(1, [1]), (2, [1, 2]), (8, [1, 2, 4, 8]), (12, [1, 2, 4, 8, 12]), (1024, [1, 2, 4, 8, 16, 32, 64, 128, 256])]
)
def test_there_are_graphs_for_few_sizes(rows: int, sizes: list[int]) -> None:
    assert buckets(rows) == sizes


class Counted(Called):
    """Counts how often each recording is replayed; ``room`` is for so many."""

    def __init__(self, room: int = 100):
        self.room = room
        self.made = 0
        self.replayed: Counter[int] = Counter()

    def __call__(self, run: Run) -> Run:
        self.made += 1
        number = self.made

        def replay() -> torch.Tensor:
            self.replayed[number] += 1
            return run()

        return replay

    def has_room(self) -> bool:
        return self.made < self.room


def on_processor(capture: Any) -> Any:
    """Returns what makes an engine's graphs as on a GPU."""

    def made(model: Any, cache: Any, capacity: Any, settings: Any) -> Graphs:
        width = -(-capacity.length // cache.page)
        return Graphs(model.model, cache, model.device, rows=capacity.sequences, width=width, capture=capture)

    return made


PROMPTS = [[5 + i, *range(3, 3 + 9 * i)] for i in range(6)]


async def answers(kit: Any, family: str, **bounds: Any) -> list[list[int]]:
    async with kit.engine(family, kv_cache="paged", page_tokens=32, max_concurrent_sequences=5, **bounds) as engine:
        alone = await kit.tokens(engine, PROMPTS[-1], max_tokens=12)
        together = await asyncio.gather(*(kit.tokens(engine, prompt, max_tokens=12 + i) for i, prompt in enumerate(PROMPTS)))
        stats = engine.stats()
    assert stats.restarts_total == 0
    return [alone, *together]


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "gemma2", "gpt_oss"])
async def test_replayed_steps_say_what_others_say(kit: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = await answers(kit, family)
    capture = Counted()
    monkeypatch.setattr(core, "graphs_for", on_processor(capture))
    assert await answers(kit, family) == wanted
    assert capture.made == len(buckets(5))
    assert len(capture.replayed) >= 3
    assert sum(capture.replayed.values()) > 12


async def test_without_room_only_what_fits_is_recorded(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = await answers(kit, "llama")
    capture = Counted(room=1)
    monkeypatch.setattr(core, "graphs_for", on_processor(capture))
    assert await answers(kit, "llama") == wanted
    assert set(capture.replayed) == {1}


class Refusing(Called):
    def __call__(self, run: Run) -> Run:
        raise RuntimeError("operation not permitted when stream is capturing")


async def test_a_model_that_cannot_be_recorded_runs_as_usual(kit: Any, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    wanted = await answers(kit, "llama")
    monkeypatch.setattr(core, "graphs_for", on_processor(Refusing()))
    assert await answers(kit, "llama") == wanted
    assert "CUDA graphs are off: a step of this model cannot be recorded: operation not permitted" in caplog.text


def spoil_two(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
    rows = torch.arange(output.shape[1])[:, None]
    return output.masked_fill((rows == 0) | (rows == 2), torch.nan)


async def test_rows_that_are_not_numbers_are_told(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core, "graphs_for", on_processor(Counted()))
    async with kit.engine("llama", kv_cache="paged") as engine:
        graphs = engine._core._runner.graphs
        rows = [[5, 0, *[graphs._cache.pages] * graphs._width] for _ in range(3)]
        with torch.inference_mode(), engine._core._model.model.model.layers[0].register_forward_hook(spoil_two):
            logits, spoiled = graphs._graphs[4].forward(rows)
    assert spoiled == [True, False, True]
    assert len(logits) == 3


def work(prompt: int, start: int, length: int, **more: Any) -> Work:
    sampling = SamplingParams(max_tokens=4, **more)
    return Work(Sequence.of(GenerationRequest("r", [7] * prompt, sampling)), Span(0, start, start + length))


def test_only_plain_decodes_are_replayed() -> None:
    assert is_plain_decode(work(5, 4, 1))
    assert not is_plain_decode(work(5, 3, 1)), "a piece of a prompt"
    assert not is_plain_decode(work(5, 3, 2)), "a chunk"
    assert not is_plain_decode(work(5, 4, 1, prompt_logprobs=0)), "a prompt that is rated"


@pytest.mark.parametrize("settings", [EngineSettings(cuda_graphs="off"), EngineSettings(kv_cache="paged"), EngineSettings()])
async def test_a_processor_has_none(kit: Any, settings: EngineSettings) -> None:
    async with kit.engine("llama", kv_cache=settings.kv_cache) as engine:
        assert engine._core._runner.graphs is None
        assert graphs_for(engine._core._model, engine._core._runner.cache, engine.capacity, settings) is None


def test_a_graph_of_one_row_is_a_step(kit: Any) -> None:
    loaded = kit.load("qwen3")
    loaded.model.set_attn_implementation("modelyard")
    cache = PagedCache(1, 4, 16)
    cache.assign(0, [2, 0])
    with torch.inference_mode():
        graph = Graph(loaded.model, cache, loaded.device, rows=2, width=4, capture=Called())
        tokens = [9, 8, 7, 6]
        got = [graph.forward([[token, position, *cache.row(0, 4)]])[0].clone() for position, token in enumerate(tokens)]
        loaded.model.set_attn_implementation("eager")
        wanted = loaded.model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    torch.testing.assert_close(torch.cat(got), wanted, atol=1e-4, rtol=1e-4)
