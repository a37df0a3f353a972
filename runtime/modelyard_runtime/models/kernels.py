"""What computes a model's layers, for its status: what was fused, packed or put into fewer bits at load."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import nn

from modelyard_runtime.models.fusing import FusedLayer
from modelyard_runtime.models.int4 import Int4Linear
from modelyard_runtime.models.packing import PackedLinear
from modelyard_runtime.models.quantising import Int8Linear

_SHOWN = (FusedLayer, PackedLinear, Int8Linear, Int4Linear, nn.Linear)


def kernels(model: nn.Module) -> dict[str, int]:
    """Returns how many layers of each kind a model has: fused ones, and those that multiply by weights, by the class that does it."""
    parts = list(model.modules())
    counts = Counter(type(part).__name__ for part in parts if isinstance(part, _SHOWN))
    if few := sum(isinstance(part, PackedLinear) and part.narrow is not None for part in parts):
        counts["float16 for few rows"] = few
    return dict(sorted(counts.items()))


def computed(model: nn.Module, dtype: object, device: object, quantization: str = "none") -> dict[str, Any]:
    """Returns what a model's status says of how it is computed. Weights that are stored in fewer bits count as quantised so."""
    stored = getattr(getattr(model, "config", None), "quantization_config", None)
    method = stored.get("quant_method") if isinstance(stored, dict) else getattr(stored, "quant_method", None)
    kept = str(getattr(method, "value", method)) if method else "none"
    return {
        "device": str(device),
        "dtype": str(dtype).removeprefix("torch."),
        "quantization": quantization if quantization != "none" else kept,
        "kernels": kernels(model),
    }
