"""A tiny vision-language model made on the spot, as `modelyard_runtime.sources.tiny` makes the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.numpy import save_file

from modelyard_runtime.sources.tiny import (
    END,
    END_ID,
    HIDDEN,
    Draw,
    Weights,
    chat_config,
    decoder_layer,
    head,
    linear,
    make_tokenizer,
    ones,
    save_tokenizer,
    seeded,
    write_json,
)

_LAYERS, _SIZE, _INNER, _HEADS = 2, 32, 64, 2
_PATCH, _MERGE, _FRAMES, _GRID = 8, 2, 2, 8
_VISION_START, _IMAGE, _VIDEO, _VISION_END = "<|vision_start|>", "<|image_pad|>", "<|video_pad|>", "<|vision_end|>"

# ChatML with content in parts, as Qwen3-VL writes it.
_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '" + _VISION_START + _IMAGE + _VISION_END + "' }}{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def make_vision(folder: Path) -> None:
    """Writes a Qwen3-VL model of two layers into ``folder``, which exists."""
    tokenizer = make_tokenizer(_VISION_START, _IMAGE, _VIDEO, _VISION_END)
    save_tokenizer(tokenizer, folder, eos_token=END, chat_template=_TEMPLATE)
    write_json(folder / "config.json", _config(tokenizer.get_vocab_size(), tokenizer.token_to_id))
    write_json(folder / "generation_config.json", {"eos_token_id": [END_ID], "do_sample": False})
    write_json(folder / "preprocessor_config.json", _processor())
    draw = seeded(20_262)
    weights = {
        "model.language_model.embed_tokens.weight": draw(tokenizer.get_vocab_size(), HIDDEN, spread=1.0),
        "model.language_model.norm.weight": ones(HIDDEN),
    }
    for layer in range(_LAYERS):
        weights |= {f"model.language_model.layers.{layer}.{name}": weight for name, weight in decoder_layer(draw).items()}
    weights |= {f"model.visual.{name}": weight for name, weight in _tower(draw).items()}
    weights["lm_head.weight"] = head(draw, tokenizer)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _config(vocabulary: int, token_id: Any) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2], "mrope_interleaved": True}
    text = chat_config(vocabulary) | {"model_type": "qwen3_vl_text", "rope_scaling": rope}
    vision = {
        "model_type": "qwen3_vl",
        "depth": _LAYERS,
        "hidden_size": _SIZE,
        "intermediate_size": _INNER,
        "num_heads": _HEADS,
        "in_channels": 3,
        "patch_size": _PATCH,
        "spatial_merge_size": _MERGE,
        "temporal_patch_size": _FRAMES,
        "out_hidden_size": HIDDEN,
        "num_position_embeddings": _GRID**2,
        "deepstack_visual_indexes": [0],
        "hidden_act": "gelu_pytorch_tanh",
    }
    return {
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "model_type": "qwen3_vl",
        "text_config": text,
        "vision_config": vision,
        "image_token_id": token_id(_IMAGE),
        "video_token_id": token_id(_VIDEO),
        "vision_start_token_id": token_id(_VISION_START),
        "vision_end_token_id": token_id(_VISION_END),
        "tie_word_embeddings": False,
        "dtype": "float32",
    }


def _processor() -> dict[str, Any]:
    return {
        "image_processor_type": "Qwen2VLImageProcessor",
        "patch_size": _PATCH,
        "merge_size": _MERGE,
        "temporal_patch_size": _FRAMES,
        "size": {"shortest_edge": (_PATCH * _MERGE) ** 2, "longest_edge": (_PATCH * _GRID) ** 2},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _tower(draw: Draw) -> Weights:
    merged = _SIZE * _MERGE**2
    weights: Weights = {
        "patch_embed.proj.weight": draw(_SIZE, 3, _FRAMES, _PATCH, _PATCH, spread=0.1),
        "patch_embed.proj.bias": draw(_SIZE, spread=0.02),
        "pos_embed.weight": draw(_GRID**2, _SIZE, spread=0.5),
    }
    for layer in range(_LAYERS):
        prefix = f"blocks.{layer}"
        weights |= _norm(f"{prefix}.norm1", _SIZE) | _norm(f"{prefix}.norm2", _SIZE)
        weights |= linear(draw, f"{prefix}.attn.qkv", 3 * _SIZE, _SIZE) | linear(draw, f"{prefix}.attn.proj", _SIZE, _SIZE)
        weights |= linear(draw, f"{prefix}.mlp.linear_fc1", _INNER, _SIZE) | linear(draw, f"{prefix}.mlp.linear_fc2", _SIZE, _INNER)
    for merger, size in (("merger", _SIZE), ("deepstack_merger_list.0", merged)):
        weights |= _norm(f"{merger}.norm", size)
        weights |= linear(draw, f"{merger}.linear_fc1", merged, merged) | linear(draw, f"{merger}.linear_fc2", HIDDEN, merged)
    return weights


def _norm(name: str, size: int) -> Weights:
    return {f"{name}.weight": ones(size), f"{name}.bias": ones(size) * 0}
