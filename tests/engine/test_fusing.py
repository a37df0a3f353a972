"""Fused layers compute what the layers of the families do, and take their place only then."""

import weakref
from typing import Any

import pytest
import torch
from modelyard_runtime.models.fusing import FusedLayer, fuse
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
#: Families, what their config needs, and how many of four layers can be fused.
FAMILIES: list[tuple[str, dict[str, Any], int]] = [
    ("llama", {}, 4),
    ("llama", {"attention_bias": True, "mlp_bias": True}, 4),
    ("qwen2", {}, 4),
    ("qwen3", {}, 4),
    ("mistral", {"sliding_window": 8}, 4),
    ("gemma2", {"sliding_window": 8, "query_pre_attn_scalar": 16}, 4),
    ("gemma3_text", {"sliding_window": 8, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}, 4),
    ("phi3", {}, 4),
    ("smollm3", {"no_rope_layers": [1, 1, 1, 0]}, 3),
    ("granite", {"residual_multiplier": 0.5}, 0),
    ("olmo2", {}, 0),
    ("cohere2", {"sliding_window": 8}, 0),
    ("glm4", {}, 0),
    ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, 0),
    ("gpt2", {"n_embd": 64, "n_layer": 4, "n_head": 4, "n_positions": 256}, 0),
]


def tiny(family: str, **more: Any) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**SMALL, **more}), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 1:  # norms and biases of 0 or 1 would hide mistakes
                weight.add_(torch.rand_like(weight) * 0.5) if "norm" in name else weight.normal_()
    return model.requires_grad_(False)


def scores(model: Any) -> torch.Tensor:
    tokens = torch.tensor([[(11 * i + 5) % 128 for i in range(40)]])
    with torch.inference_mode():
        return model(input_ids=tokens, use_cache=False).logits  # type: ignore[no-any-return]


@pytest.mark.parametrize(("family", "more", "count"), FAMILIES)
def test_a_fused_model_gives_the_same_scores(family: str, more: dict[str, Any], count: int) -> None:
    model = tiny(family, **more)
    before = scores(model)
    assert fuse(model) == count
    assert model.config._attn_implementation == "eager"
    torch.testing.assert_close(scores(model), before, atol=2e-4, rtol=1e-3)


def test_weights_are_held_once() -> None:
    model = tiny("qwen3")
    before = sum(weight.numel() for weight in model.parameters())
    fuse(model)
    norms = 4 * (2 * 64 + 2 * 16)
    assert sum(weight.numel() for weight in model.parameters()) == before - norms


def test_plain_weights_are_let_go_while_others_are_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("qwen3")
    plain = [weakref.ref(weight) for name, weight in model.named_parameters() if "q_proj" in name]
    held: list[int] = []
    monkeypatch.setattr(f"{fuse.__module__}.return_freed", lambda: held.append(sum(weight() is not None for weight in plain)))
    assert fuse(model) == len(plain) == 4
    assert all(count <= 4 - fused for fused, count in enumerate(held)), held


def test_a_fused_layer_says_where_each_product_comes_out() -> None:
    plain, model = tiny("qwen2"), tiny("qwen2")
    fuse(model)
    rows = torch.randn(1, 3, 64)
    layer, origin = model.model.layers[1], plain.model.layers[1]
    assert isinstance(layer, FusedLayer)
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        module, columns = layer.origins[name]
        torch.testing.assert_close(getattr(layer, module)(rows)[..., columns], origin.get_submodule(name)(rows), atol=1e-5, rtol=1e-5)
    assert layer.origins["self_attn.o_proj"] == ("out", slice(0, 64))
    assert layer.origins["mlp.down_proj"] == ("down", slice(0, 64))


def test_a_layer_with_a_rule_of_its_own_stays() -> None:
    model = tiny("llama")

    class Private(type(model.model.layers[0])):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return super().forward(*args, **kwargs) * 1.01  # type: ignore[no-any-return]

    model.model.layers[2].__class__ = Private
    before = scores(model)
    assert fuse(model) == 3
    assert isinstance(model.model.layers[2], Private)
    torch.testing.assert_close(scores(model), before, atol=2e-4, rtol=1e-3)


def test_a_layer_with_one_weight_more_stays() -> None:
    model = tiny("llama")
    model.model.layers[0].self_attn.gate = nn.Linear(64, 4)
    assert fuse(model) == 3
