"""Models on several devices: who gets what by calculation, and an engine over a model whose parts accelerate has hooked."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import dispatch_model
from accelerate.utils import CustomDtype
from modelyard_runtime.engine.capacity import choose_capacity
from modelyard_runtime.engine.settings import EngineSettings
from modelyard_runtime.errors import OutOfMemory
from modelyard_runtime.models import loading
from modelyard_runtime.models.fusing import FusedLayer
from modelyard_runtime.models.loading import LoadedModel, lay_out, read_causal_lm
from modelyard_runtime.models.placement import cache_memory, element, is_spread, layer_devices, place, room
from transformers import AutoConfig, AutoModelForCausalLM

from .test_lora import answer, greedy, make_adapter, merged

CPU = torch.device("cpu")
GPUS = [torch.device("cuda", index) for index in range(3)]


@pytest.fixture(scope="module")
def empty() -> Any:
    """A model of four layers without weights."""
    sizes = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 300}
    config = AutoConfig.for_model("llama", num_hidden_layers=4, tie_word_embeddings=False, **sizes)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def size(model: Any) -> int:
    return sum(parameter.numel() * 4 for parameter in model.parameters())


def test_what_the_first_holds_is_not_spread(empty: Any) -> None:
    whole = size(empty)
    assert place(empty, {0: 2 * whole, 1: 2 * whole}, torch.float32) == {"": 0}
    assert place(empty, {0: whole // 4, 1: whole // 4}, element(empty.config, torch.float32, "int4")) == {"": 0}


@pytest.mark.parametrize(
    ("stored", "quantization", "counted"),
    [
        (None, "none", torch.bfloat16),
        (None, "int8", torch.int8),
        (None, "int4", CustomDtype.INT4),
        ({"quant_method": "gptq", "bits": 4}, "none", CustomDtype.INT4),
        ({"quant_method": "mxfp4"}, "none", CustomDtype.INT4),
        ({"quant_method": "fp8"}, "none", torch.int8),
    ],
)
def test_weights_count_as_what_they_take(stored: Any, quantization: Any, counted: Any) -> None:
    config = AutoConfig.for_model("llama")
    if stored is not None:
        config.quantization_config = stored
    assert element(config, torch.bfloat16, quantization) == counted


@pytest.mark.parametrize("shares", [(0.9, 0.9), (0.5, 0.8, 0.5)])
def test_whole_layers_go_to_several(empty: Any, shares: tuple[float, ...]) -> None:
    rooms = {index: int(size(empty) * share) for index, share in enumerate(shares)}
    placed = place(empty, rooms, torch.float32)
    assert set(placed.values()) == set(rooms)
    layers = [device for path, device in placed.items() if path.startswith("model.layers.")]
    assert len(layers) == 4
    assert layers == sorted(layers)
    for index, given in rooms.items():
        parts = [empty.get_submodule(path) for path, device in placed.items() if device == index]
        assert sum(size(part) for part in parts) <= given


def test_layers_stay_whole_where_a_model_does_not_say_which_they_are(empty: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = {index: int(size(empty) * share) for index, share in enumerate((0.5, 0.8, 0.5))}
    said = place(empty, rooms, torch.float32)
    monkeypatch.setattr(empty, "_no_split_modules", None)
    assert place(empty, rooms, torch.float32) == said


def test_what_they_do_not_hold_together_is_refused(empty: Any) -> None:
    third = size(empty) // 3
    with pytest.raises(OutOfMemory, match=r"do not fit 2 GPUs .* has no place") as refusal:
        place(empty, {0: third, 1: third}, torch.float32)
    assert "--quantization=int4" in refusal.value.remedy


def test_room_is_a_share_of_what_is_free_or_so_many_bytes() -> None:
    assert room({0: 1000, 1: 500}, "80%") == {0: 800, 1: 400}
    assert room({0: 3 << 30, 1: 1 << 30}, "2Gi") == {0: 2 << 30, 1: 1 << 30}
    assert room({}, "80%") == {}


def test_the_cache_is_bounded_by_the_device_with_least_for_its_layers() -> None:
    layers = Counter({GPUS[0]: 4, GPUS[1]: 12})
    assert cache_memory(layers, {GPUS[0]: 4000, GPUS[1]: 9000}) == 12_000
    assert cache_memory(Counter({GPUS[0]: 7}), {GPUS[0]: 500}) == 500


#: Two devices, as far as a processor has them: one by two names.
FIRST, SECOND = "cpu", CPU
PLACES = {"model.embed_tokens": FIRST, "model.layers.0": FIRST, "model.layers.1": SECOND, "model.layers.2": SECOND}
PLACES |= {"model.norm": SECOND, "model.rotary_emb": SECOND, "lm_head": SECOND}


def apart(kit: Any) -> LoadedModel:
    """Returns a model whose parts accelerate hands on what they compute."""
    loaded = read_causal_lm(kit.folder("llama"), dtype="float32", device="cpu", progress=lambda fraction: None)
    dispatch_model(loaded.model, PLACES, main_device=FIRST, force_hooks=True)
    lay_out(loaded, "none")
    return loaded


@pytest.mark.parametrize("kv_cache", ["paged", "slots"])
async def test_parts_that_are_apart_compute_what_the_whole_does(kit: Any, kv_cache: str) -> None:
    prompts = [[5, 6, 7], list(range(9, 60))]
    references = kit.references("llama", prompts, new_tokens=12)
    loaded = apart(kit)
    assert hasattr(loaded.model.model.layers[2], "_hf_hook")
    assert is_spread(loaded.model)
    assert not any(isinstance(module, FusedLayer) for module in loaded.model.modules())
    assert sum(layer_devices(loaded.model).values()) == 3
    async with kit.engine(loaded, kv_cache=kv_cache, prefill_tokens=32) as engine:
        got = [await kit.tokens(engine, prompt, max_tokens=12) for prompt in prompts]
    assert got == [reference.tokens for reference in references]


@pytest.mark.parametrize("kv_cache", ["paged", "slots"])
async def test_adapters_of_parts_that_are_apart_are_mixed_in_one_batch(kit: Any, kv_cache: str, tmp_path: Path) -> None:
    folder = kit.folder("llama")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain.generation_config.eos_token_id = None
    adapters = {
        "one": make_adapter(tmp_path / "one", plain, seed=1),
        "two": make_adapter(tmp_path / "two", plain, seed=2, rank=9, alpha=27),
    }
    whole = {None: plain, "one": merged(folder, adapters["one"], scale=8 / 4), "two": merged(folder, adapters["two"], scale=27 / 9)}
    prompts = [list(range(5 + i, 45 + 3 * i)) for i in range(6)]
    asked = [(prompt, (None, "one", "two")[i % 3]) for i, prompt in enumerate(prompts)]
    async with kit.engine(apart(kit), kv_cache=kv_cache, prefill_tokens=32) as engine:
        for name, path in adapters.items():
            engine.adapters.load(name, path)
        got = await asyncio.gather(*(answer(engine, *each) for each in asked))
        engine.adapters.unload("one")
        engine.adapters.load("one", make_adapter(tmp_path / "another", plain, seed=7))
        later, _ = await answer(engine, prompts[1], "one")
    assert [tokens for tokens, _ in got] == [greedy(whole[lora], prompt, 16) for prompt, lora in asked]
    assert later == greedy(merged(folder, tmp_path / "another", scale=8 / 4), prompts[1], 16)


def test_weights_are_placed_as_they_are_read(kit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kit.folder("llama")
    asked: list[Any] = []

    def placed(model: Any, rooms: dict[int, int], counted: Any) -> dict[str, Any]:
        assert all(parameter.is_meta for parameter in model.parameters())
        asked.append((rooms, counted))
        return PLACES

    monkeypatch.setattr(loading, "place", placed)
    loaded = read_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None, rooms={0: 1, 1: 1})
    assert asked == [({0: 1, 1: 1}, torch.float32)]
    assert loaded.model.hf_device_map == PLACES
    assert choose_capacity(loaded, EngineSettings(), 1024).sequences == 32
