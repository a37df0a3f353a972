"""Whether weights hold what their config asks for: the library makes up the rest of random numbers, however much that is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from modelyard_runtime.errors import WeightsNotFound
from modelyard_runtime.models.folder import again
from modelyard_runtime.models.heads import stored

#: What configs call the layers of a model or of a part of it.
_LAYERS = frozenset({"num_hidden_layers", "num_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "depth"})
#: A model may have a few parameters that its weights do not: what is missing is named later, one by one.
_MORE = 2
#: Parameters of one bit in numbers of 32, as small as any quantised weights are stored.
_PACKED = 32


def check_sizes(folder: Path, config: Any, make: Callable[[], Any] | None) -> None:
    """Raises WeightsNotFound when a config asks for more layers or parameters than the weights of its folder can be.

    Also raises what `stored` does. ``make`` makes the model without weights, which takes no memory here, and 20 to 50 ms; a million layers
    would take hours even so. Where it is None the parameters are not counted.
    """
    tensors = stored(folder)
    layers = max(_layers(config.to_dict()), default=0)
    if tensors and layers > len(tensors):
        raise _refused(folder, f"{layers} layers, and its weights are {len(tensors)} tensors")
    if not tensors or make is None:
        return
    parameters = sum(tensor.numbers for tensor in tensors)
    with torch.device("meta"):
        wanted = sum(parameter.numel() for parameter in make().parameters())
    if wanted > parameters * (_MORE if getattr(config, "quantization_config", None) is None else _PACKED):
        raise _refused(folder, f"{wanted} parameters, and its weights are {parameters}")


def _layers(config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _layers(value)
        elif name in _LAYERS and isinstance(value, int):
            yield value


def _refused(folder: Path, what: str) -> WeightsNotFound:
    return WeightsNotFound(f"config.json of {folder.name} asks for {what}", again(folder))
