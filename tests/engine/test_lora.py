"""Adapters: each request gets its own, in one batch, as if the adapter were merged into the weights."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from modelyard_runtime.engine.base import GenerationRequest, SamplingParams, UnknownAdapter
from modelyard_runtime.engine.lora import Adapters, Target, targets_of
from modelyard_runtime.errors import RuntimeFailed, UnsupportedModel, WeightsNotFound
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

LAYERS = ("self_attn.q_proj", "self_attn.v_proj", "mlp.down_proj", "mlp.gate_proj")


def make_adapter(
    folder: Path, model: Any, *, seed: int, rank: int = 4, alpha: int = 8, layers: tuple[str, ...] = LAYERS, **more: Any
) -> Path:
    """Writes an adapter as PEFT saves one."""
    folder.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for path, module in model.named_modules():
        if path.endswith(layers) and isinstance(module, torch.nn.Linear):
            tensors[f"base_model.model.{path}.lora_A.weight"] = torch.randn(rank, module.in_features, generator=generator) * 0.3
            tensors[f"base_model.model.{path}.lora_B.weight"] = torch.randn(module.out_features, rank, generator=generator) * 0.3
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "target_modules": [*layers]} | more
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def merged(folder: Path, adapter: Path, *, scale: float) -> Any:
    """Returns plain Transformers with the adapter added to the weights."""
    from safetensors.torch import load_file

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    tensors = load_file(adapter / "adapter_model.safetensors")
    for name, down in tensors.items():
        if name.endswith("lora_A.weight"):
            path = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            up = tensors[name.replace("lora_A", "lora_B")]
            model.get_submodule(path).weight.data += scale * up @ down
    return model


def greedy(model: Any, prompt: list[int], count: int) -> list[int]:
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0)
    return out[0, len(prompt) :].tolist()


async def answer(engine: Any, prompt: list[int], lora: str | None, count: int = 16) -> tuple[list[int], int]:
    sampling = SamplingParams(temperature=0.0, max_tokens=count, ignore_eos=True)
    events = [event async for event in engine.submit(GenerationRequest("test", prompt, sampling, lora=lora))]
    return [event.token_id for event in events], events[0].cached_tokens


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma3_text"])
async def test_adapters_are_mixed_in_one_batch(kit: Any, family: str, tmp_path: Path) -> None:
    folder = kit.folder(family)
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    plain.generation_config.eos_token_id = None
    one = make_adapter(tmp_path / "one", plain, seed=1)
    two = make_adapter(tmp_path / "two", plain, seed=2, rank=9, alpha=3, use_rslora=True)
    models = {None: plain, "one": merged(folder, one, scale=8 / 4), "two": merged(folder, two, scale=3 / 3)}
    prompts = [list(range(5 + i, 45 + 3 * i)) for i in range(6)]
    asked = [(prompt, (None, "one", "two")[i % 3]) for i, prompt in enumerate(prompts)]
    async with kit.engine(folder, prefill_tokens=32, prefill_tokens_beside_decodes=16) as engine:
        engine.adapters.load("one", one)
        engine.adapters.load("two", two)
        got = await asyncio.gather(*(answer(engine, *each) for each in asked))
    assert [tokens for tokens, _ in got] == [greedy(models[lora], prompt, 16) for prompt, lora in asked]


async def test_a_prefix_is_not_shared_between_adapters(kit: Any, tmp_path: Path) -> None:
    folder = kit.folder("llama")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = list(range(5, 60))
    async with kit.engine(folder) as engine:
        engine.adapters.load("one", make_adapter(tmp_path / "one", plain, seed=1))
        first, _ = await answer(engine, prompt, "one")
        again, cached = await answer(engine, prompt, "one")
        assert (again, cached > 0) == (first, True)
        assert (await answer(engine, prompt, None))[1] == 0
        engine.adapters.load("one", make_adapter(tmp_path / "other", plain, seed=7))
        changed, cached = await answer(engine, prompt, "one")
        assert (changed != first, cached) == (True, 0)


async def test_an_unloaded_adapter_is_unknown_and_a_running_request_keeps_it(kit: Any, tmp_path: Path) -> None:
    folder = kit.folder("llama")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    async with kit.engine(folder) as engine:
        engine.adapters.load("one", make_adapter(tmp_path / "one", plain, seed=1))
        whole, _ = await answer(engine, [5, 6, 7], "one", 60)
        stream = engine.submit(
            GenerationRequest("test", [5, 6, 7], SamplingParams(temperature=0.0, max_tokens=60, ignore_eos=True), lora="one")
        )
        tokens = [(await anext(stream)).token_id]
        engine.adapters.unload("one")
        with pytest.raises(UnknownAdapter, match="no adapter 'one'"):
            engine.submit(GenerationRequest("test", [5], SamplingParams(), lora="one"))
        tokens += [event.token_id async for event in stream]
        assert tokens == whole


BAD: dict[str, tuple[dict[str, Any], type[RuntimeFailed], str]] = {
    "dora": ({"use_dora": True}, UnsupportedModel, "use_dora"),
    "bias": ({"bias": "all"}, UnsupportedModel, "bias"),
    "another method": ({"peft_type": "IA3"}, UnsupportedModel, "not a LoRA adapter"),
    "modules to save": ({"modules_to_save": ["lm_head"]}, UnsupportedModel, "modules_to_save"),
}


@pytest.mark.parametrize(("config", "error", "words"), BAD.values(), ids=BAD.keys())
async def test_adapters_that_cannot_be_applied_are_refused(
    kit: Any, tmp_path: Path, config: dict[str, Any], error: type[RuntimeFailed], words: str
) -> None:
    folder = kit.folder("llama")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    adapter = make_adapter(tmp_path / "bad", plain, seed=1, **config)
    async with kit.engine(folder) as engine:
        with pytest.raises(error, match=words):
            engine.adapters.load("bad", adapter)


async def test_damaged_and_foreign_adapters_are_refused(kit: Any, tmp_path: Path) -> None:
    folder = kit.folder("llama")
    plain = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    async with kit.engine(folder) as engine:
        empty = tmp_path / "empty"
        empty.mkdir()
        with pytest.raises(WeightsNotFound, match=r"adapter_config\.json"):
            engine.adapters.load("bad", empty)
        bare = make_adapter(tmp_path / "bare", plain, seed=1)
        (bare / "adapter_model.safetensors").write_bytes(b"\x10" * 50)
        with pytest.raises(WeightsNotFound, match="cannot be read"):
            engine.adapters.load("bad", bare)
        wide = torch.nn.Module()
        wide.add_module(
            "model", torch.nn.ModuleDict({"layers": torch.nn.ModuleList([torch.nn.ModuleDict({"q_proj": torch.nn.Linear(8, 8)})])})
        )
        foreign = make_adapter(tmp_path / "foreign", wide, seed=1, layers=("q_proj",))
        with pytest.raises(UnsupportedModel, match="is no linear decoder layer"):
            engine.adapters.load("bad", foreign)
        assert not engine.adapters.loaded


def test_adapters_that_are_loaded_at_once_are_applied_once() -> None:
    begun, go = Event(), Event()

    class Slow(torch.nn.Linear):
        def register_forward_hook(self, *arguments: Any, **more: Any) -> Any:
            begun.set()
            go.wait()
            return super().register_forward_hook(*arguments, **more)

    layer = Slow(4, 4)
    adapters = Adapters({"layer": Target(layer, slice(0, 4), 4, 4)}, torch.device("cpu"), torch.float32)
    update = {"layer": (torch.ones(1, 4), torch.ones(4, 1))}
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(adapters._hook, update)
        begun.wait()
        second = threads.submit(adapters._hook, update)
        wait([second], timeout=0.05)
        go.set()
        first.result(), second.result()
    assert len(layer._forward_hooks) == 1


def test_every_linear_layer_of_the_blocks_can_be_adapted(kit: Any) -> None:
    model = AutoModelForCausalLM.from_pretrained(kit.folder("qwen3"))
    names = {path.rsplit(".", 1)[-1] for path in targets_of(model)}
    assert names == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
