"""LoRA adapters with seeded random weights, in PEFT's files."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


def adapter(base: Path, path: Path, seed: int, rank: int = 4, **config: object) -> Path:
    """Writes an adapter of the first layer's projections, as PEFT saves one."""
    path.mkdir()
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    with safe_open(base / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            if name.startswith("model.layers.0.") and name.endswith("_proj.weight"):
                rows, columns = weights.get_slice(name).get_shape()
                key = f"base_model.model.{name.removesuffix('.weight')}"
                tensors[f"{key}.lora_A.weight"] = torch.randn(rank, columns, generator=generator)
                tensors[f"{key}.lora_B.weight"] = torch.randn(rows, rank, generator=generator)
    save_file(tensors, path / "adapter_model.safetensors")
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": 4} | config))
    return path
