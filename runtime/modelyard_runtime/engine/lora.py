"""LoRA adapters beside one set of weights: each packed row gets the update of its own request's adapter.

A linear layer y = W x becomes y = W x + s B A x for the rows of an adapter (https://arxiv.org/abs/2106.09685). Adapters are folders in
PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``. They are loaded and dropped while the engine runs; a request keeps
the one that it began with.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from modelyard_runtime.errors import UnsupportedModel, WeightsNotFound
from modelyard_runtime.model_files import read_json
from modelyard_runtime.models.fusing import FusedLayer

#: The file that tells an adapter's folder.
ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_PREFIX = "base_model.model."
_MOST_RANK = 512
_MOST_ALPHA = 1 << 20
#: Settings of PEFT that change what an adapter computes in ways that are not done here, and the values that do not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "bias": ("none", None),
    "modules_to_save": (None, []),
    "alora_invocation_tokens": (None,),
    "trainable_token_indices": (None,),
    "lora_bias": (False, None),
}

Update = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """An adapter in memory: by layer, A [rank, in] and B [out, rank], the scale in B. ``generation`` tells two of one name apart."""

    name: str
    updates: dict[str, Update]
    generation: int

    @property
    def bytes(self) -> int:
        """Memory that it takes."""
        return sum(tensor.numel() * tensor.element_size() for update in self.updates.values() for tensor in update)


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows [start, end) of a step that use an adapter."""

    adapter: Adapter
    start: int
    end: int


_STEP: ContextVar[Sequence[Rows]] = ContextVar("modelyard_lora_rows", default=())


@contextmanager
def adapting(rows: Sequence[Rows]) -> Iterator[None]:
    """Makes ``rows`` the ones whose adapters apply within the block, in this thread."""
    token = _STEP.set(rows)
    try:
        yield
    finally:
        _STEP.reset(token)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a layer's product comes out: the module, and the columns of its output when it computes several layers at once."""

    module: nn.Module
    columns: slice
    inputs: int
    outputs: int


@dataclass(slots=True)
class Adapters:
    """The adapters of one model. `load` may run on any thread; what it returns is in force at once."""

    targets: dict[str, Target]
    device: torch.device
    dtype: torch.dtype
    loaded: dict[str, Adapter] = field(default_factory=dict)
    _hooked: set[nn.Module] = field(default_factory=set)
    _hooking: Lock = field(default_factory=Lock)
    _generations: Iterator[int] = field(default_factory=itertools.count)

    def load(self, name: str, folder: Path) -> Adapter:
        """Loads a folder under a name, in place of an earlier one. Raises WeightsNotFound or UnsupportedModel."""
        config = _config(folder)
        updates = _updates(folder, config)
        unknown = sorted(updates.keys() - self.targets.keys())
        if unknown:
            raise UnsupportedModel(f"adapter {name!r} adapts {unknown[0]}, which is no linear decoder layer of this model", _REMEDY)
        for path, (down, up) in updates.items():
            target = self.targets[path]
            if down.shape[1] != target.inputs or up.shape[0] != target.outputs:
                raise UnsupportedModel(
                    f"adapter {name!r} is made for another model: {path} is {target.outputs} by {target.inputs} here, "
                    f"and {up.shape[0]} by {down.shape[1]} in the adapter",
                    _REMEDY,
                )
        placed = {path: self._placed(path, update) for path, update in updates.items()}
        self._hook(placed)
        self.loaded[name] = adapter = Adapter(name, placed, next(self._generations))
        return adapter

    def unload(self, name: str) -> None:
        """Forgets an adapter; requests that run with it finish with it. Raises KeyError when there is none of the name."""
        del self.loaded[name]

    def _placed(self, path: str, update: Update) -> Update:
        """Returns an update on the device of the layer that it is for: a model may be spread over several."""
        module = self.targets[path].module
        own = next(itertools.chain(module.parameters(), module.buffers()), None)
        down, up = (part.to(self.device if own is None else own.device, self.dtype) for part in update)
        if not (down.isfinite().all() and up.isfinite().all()):
            raise UnsupportedModel(f"the adapter's {path} holds what is no number, or none that {self.dtype} holds", _REMEDY)
        return down, up

    def _hook(self, updates: dict[str, Update]) -> None:
        """Hooks the modules that have not been: models without adapters pay nothing. Hooked twice, they would apply each update twice."""
        with self._hooking:
            wanted = {self.targets[path].module for path in updates} - self._hooked
            for module in wanted:
                parts = [(path, target.columns) for path, target in self.targets.items() if target.module is module]
                module.register_forward_hook(_applies(parts))
            self._hooked |= wanted


def targets_of(model: nn.Module) -> dict[str, Target]:
    """Returns the linear layers of a decoder's blocks, by the paths that PEFT knows them by, fused or not."""
    found: dict[str, Target] = {}
    fused: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if ".layers." not in path or "visual" in path or path.startswith(fused or "\0"):
            continue
        if isinstance(module, FusedLayer):
            fused += (f"{path}.",)
            for name, (group, columns) in module.origins.items():
                found[f"{path}.{name}"] = _target(module.get_submodule(group), columns)
        elif hasattr(module, "in_features") and hasattr(module, "out_features"):
            found[path] = _target(module, slice(0, int(module.out_features)))
    return found


def _target(module: nn.Module, columns: slice) -> Target:
    return Target(module, columns, int(module.in_features), columns.stop - columns.start)  # type: ignore[arg-type]


def _applies(parts: list[tuple[str, slice]]) -> Any:
    def hook(_module: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        for rows in _STEP.get():
            for path, columns in parts:
                update = rows.adapter.updates.get(path)
                if update is not None:
                    down, up = update
                    taken = arguments[0][..., rows.start : rows.end, :]
                    output[..., rows.start : rows.end, columns] += taken @ down.T @ up.T
        return output

    return hook


_REMEDY = "choose an adapter that was trained on these weights with PEFT, for the attention and feed-forward layers"


def _config(folder: Path) -> dict[str, Any]:
    config = read_json(folder / ADAPTER_CONFIG, dict)
    if config is None:
        raise WeightsNotFound(f"{folder.name} has no {ADAPTER_CONFIG}", "name a folder in PEFT's format")
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{folder.name} is not a LoRA adapter: its peft_type is not LORA", _REMEDY)
    odd = next((key for key, neutral in _NEUTRAL.items() if config.get(key) not in neutral), None)
    if odd is not None:
        raise UnsupportedModel(f"the adapter {folder.name} has {odd}={config[odd]!r}, which is not supported", _REMEDY)
    return config


def _updates(folder: Path, config: dict[str, Any]) -> dict[str, Update]:
    try:
        tensors = load_file(folder / _WEIGHTS)
    except FileNotFoundError:
        raise WeightsNotFound(f"{folder.name} has no {_WEIGHTS}", "save the adapter with safetensors: other formats can run code") from None
    except (SafetensorError, OSError) as error:
        raise WeightsNotFound(f"{_WEIGHTS} of {folder.name} cannot be read: {error}", "fetch the adapter again") from error
    downs = {name.removesuffix(".lora_A.weight"): tensor for name, tensor in tensors.items() if name.endswith(".lora_A.weight")}
    ups = {name.removesuffix(".lora_B.weight"): tensor for name, tensor in tensors.items() if name.endswith(".lora_B.weight")}
    if not downs or downs.keys() != ups.keys() or len(downs) + len(ups) != len(tensors):
        raise UnsupportedModel(f"the adapter {folder.name} holds more, or less, than pairs of lora_A and lora_B", _REMEDY)
    return {name.removeprefix(_PREFIX): _scaled(name.removeprefix(_PREFIX), down, ups[name], config) for name, down in downs.items()}


def _scaled(path: str, down: torch.Tensor, up: torch.Tensor, config: dict[str, Any]) -> Update:
    """Returns A and B with the scale alpha / rank (or alpha / √rank, https://arxiv.org/abs/2312.03732) in B."""
    if down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1] or not 0 < down.shape[0] <= _MOST_RANK:
        raise UnsupportedModel(f"the adapter's {path} is no pair of matrices of one rank from 1 to {_MOST_RANK}", _REMEDY)
    rank = down.shape[0]
    alpha = _alpha(path, config, rank)
    scale = alpha / rank**0.5 if config.get("use_rslora") else alpha / rank
    return down.float(), up.float() * scale


def _alpha(path: str, config: dict[str, Any], rank: int) -> float:
    patterns = config.get("alpha_pattern") or {}
    if not isinstance(patterns, dict):
        raise UnsupportedModel("the adapter's alpha_pattern is no object of numbers", _REMEDY)
    named = (value for suffix, value in patterns.items() if path.endswith(suffix.lstrip("^")))
    alpha = next(named, config.get("lora_alpha", rank))
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not abs(alpha) <= _MOST_ALPHA:
        raise UnsupportedModel(f"the adapter's alpha of {path} is no number up to {_MOST_ALPHA}", _REMEDY)
    return float(alpha)
