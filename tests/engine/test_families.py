"""Which architectures the engine takes: proved by comparing scores, not by a list of names."""

from typing import Any

import pytest
import torch
from modelyard_runtime.engine.probe import adopt
from modelyard_runtime.errors import UnsupportedModel
from modelyard_runtime.models.loading import LoadedModel
from transformers import AutoConfig, AutoModelForCausalLM

SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LATENT = {
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
}
TAKEN: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "qwen3_moe": EXPERTS,
    "mixtral": EXPERTS,
    "phi3": {},
    "olmo2": {},
    "granite": {},
    "cohere2": {"sliding_window": 8},
    "smollm3": {},
    "gpt_neox": {},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "glm4": {"head_dim": 16},
    "starcoder2": {"sliding_window": 8},
    "exaone4": {"sliding_window": 8},
    "deepseek_v3": LATENT,
}
REFUSED = ("falcon", "bloom", "mpt", "mamba2")


def tiny(family: str, **more: Any) -> LoadedModel:
    torch.manual_seed(1)
    config = AutoConfig.for_model(family, **{**SMALL, **more})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation="eager").eval()
    return LoadedModel(model, None, model.config, torch.device("cpu"), torch.float32, 256, frozenset(), None)


@pytest.mark.parametrize("family", TAKEN)
def test_families_that_share_the_attention_interface_are_taken(family: str) -> None:
    assert adopt(tiny(family, **TAKEN[family])) > 0


@pytest.mark.parametrize("family", REFUSED)
def test_other_families_are_refused_with_the_cause(family: str) -> None:
    sizes = {"num_heads": 8, "head_dim": 16, "state_size": 16, "n_groups": 1} if family == "mamba2" else {}
    with pytest.raises(UnsupportedModel) as refusal:
        adopt(tiny(family, **sizes))
    assert family in refusal.value.message
    assert "Llama" in refusal.value.remedy


def test_a_layer_that_is_not_attention_is_refused_before_any_forward() -> None:
    loaded = tiny("qwen3")
    loaded.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(UnsupportedModel, match="linear_attention"):
        adopt(loaded)


def test_a_model_whose_scores_differ_is_refused() -> None:
    """A layer that scales its values only for a name it does not know: a family's private rule that our attention cannot see."""
    loaded = tiny("llama")

    def private_rule(module: Any, inputs: Any, output: Any) -> Any:
        return output * 1.5 if loaded.config._attn_implementation == "modelyard" else output

    loaded.model.model.layers[1].self_attn.v_proj.register_forward_hook(private_rule)
    with pytest.raises(UnsupportedModel, match="scores differ"):
        adopt(loaded)


def test_bytes_per_token_are_those_of_all_layers() -> None:
    layers, heads, size, float32 = 2, 2, 16, 4
    assert adopt(tiny("llama")) == layers * heads * size * 2 * float32
