"""Where a model's weights go when one GPU does not hold them: whole layers, spread over several by accelerate.

Layers compute one after another, each on its device; accelerate moves what goes from one to the next, and the KV cache of a layer is where
the layer is. So more devices hold more, and are no faster. Weights in the memory of the processor or on a disk would be read anew for each
token: a model that the devices together do not hold is refused.
"""

from collections import Counter
from functools import partial
from typing import Any

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import CustomDtype, get_balanced_memory
from torch import nn

from modelyard_runtime.errors import OutOfMemory
from modelyard_runtime.models.quantising import Quantization
from modelyard_runtime.setting_types import bytes_of

#: What a weight takes; scales and the scores' layer, which stays as it is, come on top.
_ELEMENTS: dict[Quantization, Any] = {"int8": torch.int8, "fp8": CustomDtype.FP8, "int4": CustomDtype.INT4}
_REMEDY = "use more or larger GPUs, --quantization=int4, or a larger --device-memory"


def free_memory() -> dict[int, int]:
    """Returns the free bytes of each GPU, by its number."""
    return {index: torch.cuda.mem_get_info(index)[0] for index in range(torch.cuda.device_count())}


def room(free: dict[int, int], memory: str) -> dict[int, int]:
    """Returns the bytes that weights may take on each GPU: ``memory`` is bytes, or a share of what is free."""
    return {index: min(given, bytes_of(memory, partial(int, given))) for index, given in free.items()}


def element(config: Any, dtype: torch.dtype, quantization: Quantization) -> Any:
    """Returns what accelerate counts a weight as: the type that it is loaded in, made into, or stored in by a quantised checkpoint."""
    if quantization != "none":
        return _ELEMENTS[quantization]
    stored = getattr(config, "quantization_config", None)
    if not stored:
        return dtype
    said = stored if isinstance(stored, dict) else stored.to_dict()
    four = said.get("bits") == 4 or said.get("load_in_4bit") or "fp4" in str(said.get("quant_method"))
    return CustomDtype.INT4 if four else torch.int8


def place(model: nn.Module, rooms: dict[int, int], counted: Any) -> dict[str, int]:
    """Returns the GPU of each part of a model that has no weights yet; all on the first where that holds it. Raises OutOfMemory.

    ``counted`` is what a weight counts as, by `element`. Parts are modules by their paths, none of them smaller than a decoder layer.
    """
    unsplit = _whole(model)
    placed: dict[str, int] = infer_auto_device_map(model, max_memory=_first(rooms), no_split_module_classes=unsplit, dtype=counted)
    if set(placed.values()) == {next(iter(rooms))}:
        return placed
    balanced = get_balanced_memory(model, max_memory=dict(rooms), no_split_module_classes=unsplit, dtype=counted)
    placed = infer_auto_device_map(model, max_memory=balanced, no_split_module_classes=unsplit, dtype=counted)
    outside = sorted(name for name, device in placed.items() if not isinstance(device, int))
    if outside:
        sizes = ", ".join(f"{size / 2**30:.1f}" for size in rooms.values())
        raise OutOfMemory(f"the weights do not fit {len(rooms)} GPUs with room for {sizes} GiB: {outside[0]} has no place", _REMEDY)
    return placed


def is_spread(model: Any) -> bool:
    """Whether a model's parts are on several devices."""
    return len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1


def layer_devices(model: nn.Module) -> Counter[torch.device]:
    """Returns how many decoder layers each device has."""
    layers = (module for module in model.modules() if hasattr(module, "self_attn"))
    return Counter(next(layer.parameters()).device for layer in layers)


def cache_memory(layers: Counter[torch.device], free: dict[torch.device, int]) -> int:
    """Returns the memory for a KV cache that each device holds its layers' share of: what the one with least for its share allows."""
    whole = sum(layers.values())
    return min(free[device] * whole // count for device, count in layers.items())


def _whole(model: nn.Module) -> list[str]:
    """Returns the classes of what must not be cut, decoder layers: an adapter and a KV cache are where their layer is.

    Code that comes with the weights may not name them; then they are what has an attention.
    """
    named = getattr(model, "_no_split_modules", None) or {
        type(module).__name__ for module in model.modules() if hasattr(module, "self_attn")
    }
    return sorted(named)


def _first(rooms: dict[int, int]) -> dict[int, int]:
    return dict(list(rooms.items())[:1])
