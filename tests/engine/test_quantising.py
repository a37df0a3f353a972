"""Weights in fewer bits: what they cost in quality, what they do not depend on, and where they are refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.hardware import multiplies_bytes
from modelyard_runtime.models.int4 import Int4Linear, fits, rounded
from modelyard_runtime.models.loading import load_causal_lm, read_causal_lm
from modelyard_runtime.models.quantising import Int8Linear, Quantization, check, choose, loading_config
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

TEXT = (
    "The capital of France is Paris, which lies on the river Seine. Water boils at one hundred degrees Celsius at sea level. A year has "
    "twelve months, and a week has seven days. The sun rises in the east and sets in the west."
)
needs_vnni = pytest.mark.xfail(not multiplies_bytes(), reason="the processor cannot", raises=ArgumentsInvalid, strict=True)


def load(folder: Path, quantization: Quantization) -> Any:
    return load_causal_lm(folder, dtype="float32", device="cpu", quantization=quantization, progress=lambda fraction: None)


def loss(loaded: Any, model: Any = None) -> tuple[float, torch.Tensor]:
    """Returns the mean negative log likelihood of a text, and the best token at each place, by another ``model`` where one is given."""
    ids = loaded.tokenizer(TEXT, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        scores = (model or loaded.model)(input_ids=ids, use_cache=False).logits[0, :-1]
    return float(nn.functional.cross_entropy(scores, ids[0, 1:])), scores.argmax(-1)


@pytest.mark.parametrize("quantization", [pytest.param("int8", marks=needs_vnni), "int4"])
async def test_a_real_model_in_fewer_bits_says_nearly_what_float32_says(kit: Any, smollm2: Path, quantization: Quantization) -> None:
    loaded = load(smollm2, quantization)
    plain, best = loss(loaded, AutoModelForCausalLM.from_pretrained(smollm2, dtype=torch.float32))
    rounded, best_rounded = loss(loaded)
    assert rounded < plain * 1.05
    assert float((best == best_rounded).float().mean()) > 0.85
    async with kit.engine(loaded) as engine:
        assert len(await kit.tokens(engine, [5, 6, 7], max_tokens=4)) == 4


def test_int8_layers_are_all_but_the_scores(kit: Any) -> None:
    model = load(kit.folder("llama"), "int8").model
    assert sum(isinstance(module, Int8Linear) for module in model.modules()) == 4 * 3
    assert not isinstance(model.lm_head, Int8Linear)


@needs_vnni
async def test_int8_answers_do_not_depend_on_the_company(kit: Any) -> None:
    prompts = [[5, 6, 7], [9, 8, 7, 6, 5], [40, 41]]
    async with kit.engine(load(kit.folder("llama"), "int8")) as engine:
        alone = [await kit.tokens(engine, prompt, max_tokens=12) for prompt in prompts]
        streams = [engine.submit(kit.request(prompt, max_tokens=12)) for prompt in prompts]
        together = [[event.token_id async for event in stream] for stream in streams]
    assert together == alone


def test_an_int8_layer_rounds_to_a_hundredth() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 40)
    packed = Int8Linear(linear)
    rows = torch.randn(1, 9, 96) * torch.tensor([1e-6, 1e-3, 1, 10, 1e4, 1, 1, 1, 0])[:, None]
    with torch.no_grad():
        wanted, got = linear(rows), packed(rows)
    assert float(((got - wanted).abs().amax(-1) / wanted.abs().amax(-1)).max()) < 0.02
    alone = torch.cat([packed(rows[:, i : i + 1]) for i in range(9)], 1)
    torch.testing.assert_close(alone, got)


@pytest.mark.parametrize(
    ("quantization", "device", "words"),
    [("fp8", "cpu", "needs a GPU"), ("int8", "mps", "mps"), ("int4", "mps", "mps")],
)
def test_what_the_device_cannot_is_refused(quantization: Quantization, device: str, words: str) -> None:
    with pytest.raises(ArgumentsInvalid, match=words) as refusal:
        check(quantization, torch.device(device))
    assert refusal.value.remedy


def as_fp8(folder: Path) -> None:
    """Rewrites a folder's weights as DeepSeek and Qwen publish theirs: blocks of 128 by 128 in fp8 with a scale each."""
    weights, stored = load_file(folder / "model.safetensors"), {}
    for name, weight in weights.items():
        if "_proj" not in name:
            stored[name] = weight
            continue
        largest = torch.finfo(torch.float8_e4m3fn).max
        scale = weight.abs().max() / largest
        stored[name] = (weight / scale).to(torch.float8_e4m3fn)
        stored[name + "_scale_inv"] = scale.view(1, 1).float()
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def fp8(kit: Any, tmp_path: Path) -> Path:
    folder = Path(shutil.copytree(kit.folder("qwen3"), tmp_path / "fp8"))
    as_fp8(folder)
    return folder


async def test_weights_stored_in_fp8_are_widened_on_a_processor(kit: Any, fp8: Path) -> None:
    loaded = load(fp8, "none")
    async with kit.engine(loaded) as engine:
        assert len(await kit.tokens(engine, [5, 6, 7], max_tokens=4)) == 4
    plain = load(kit.folder("qwen3"), "none")
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        scores, wanted = (model.model.set_attn_implementation("eager") or model.model(input_ids=ids).logits for model in (loaded, plain))
    assert float(nn.functional.cosine_similarity(scores.flatten(), wanted.flatten(), dim=0)) > 0.98


def test_weights_that_are_quantised_already_are_not_quantised_again(fp8: Path) -> None:
    if multiplies_bytes():
        with pytest.raises(ArgumentsInvalid, match="quantised already"):
            load(fp8, "int8")


@pytest.mark.parametrize(
    ("wish", "size", "stored", "chosen"),
    [
        ("auto", 17, False, "int4"),
        ("auto", 16, False, "none"),
        ("auto", 17, True, "none"),
        ("int8", 1, False, "int8"),
        ("none", 99, False, "none"),
    ],
)
def test_what_is_large_becomes_four_bits(wish: Any, size: int, stored: bool, chosen: str) -> None:
    assert choose(wish, size, 16, stored=stored) == chosen


async def test_int4_layers_answer_in_the_engine(kit: Any) -> None:
    loaded = load(kit.folder("llama"), "int4")
    assert sum(isinstance(module, Int4Linear) for module in loaded.model.modules()) == 4 * 3
    assert not isinstance(loaded.model.lm_head, Int4Linear)
    async with kit.engine(loaded, kv_cache="paged") as engine:
        assert len(await kit.tokens(engine, [5, 6, 7], max_tokens=12)) == 12


def test_an_int4_layer_rounds_to_sixteen_steps_a_group() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 48)
    layer = Int4Linear(linear)
    rows = torch.randn(2, 5, 96)
    with torch.no_grad():
        wanted, got = linear(rows), layer(rows)
        steps, pairs = rounded(linear.weight)
        scale, offset = (each.transpose(0, 1)[..., None].float() for each in pairs.unbind(-1))
        weights = ((steps.view(48, 3, 32) - 8) * scale + offset).view(48, 96)
    assert (int(steps.min()), int(steps.max())) == (0, 15)
    torch.testing.assert_close(got, nn.functional.linear(rows.bfloat16().float(), weights, linear.bias), atol=0.02, rtol=0.02)
    assert float((got - wanted).norm() / wanted.norm()) < 0.1
    assert not fits(nn.Linear(40, 48))
    assert not fits(nn.Linear(96, 20))


@pytest.mark.parametrize("quantization", ["int4", "int8"])
async def test_layers_of_bitsandbytes_run_in_the_engine(kit: Any, quantization: Quantization) -> None:
    """On a processor these layers are slow, and the same as on a GPU in all that the engine sees of them."""
    folder = kit.folder("ministral", intermediate_size=128)  # a multiple of a block of 64
    plain = read_causal_lm(folder, dtype="float32", device="cpu", progress=lambda fraction: None)
    how = loading_config(quantization, torch.device("cuda"), torch.float32)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, quantization_config=how, device_map={"": "cpu"})
    loaded = replace(plain, model=model.eval())
    before, _ = loss(plain)
    async with kit.engine(loaded, kv_cache="paged", page_tokens=32) as engine:
        assert len(await kit.tokens(engine, [5, 6, 7], max_tokens=6)) == 6
        assert not any(type(module) is nn.Linear for module in model.model.modules())
    model.set_attn_implementation("eager")
    assert loss(loaded)[0] < 1.2 * before
