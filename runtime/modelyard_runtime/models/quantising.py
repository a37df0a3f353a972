"""Weights in fewer bits, on demand: answers change a little, memory and time shrink.

On a processor ``int8`` is ours: each weight row and each row of activations is scaled to eight bits by its own largest number, so that a
request's answer does not depend on what else is in the batch, and oneDNN multiplies the integers. The scores' layer stays as it is: there
rounding shows most. All products of a 135 M model on one core take 19 ms instead of 37 at 1 row, 28 instead of 57 at 8, 111 instead of 234
at 128. ``int4`` there is `int4.Int4Linear`. On a GPU bitsandbytes does ``int8`` and ``int4``, and Transformers ``fp8``; these three are not
measured yet.
"""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.linalg import vector_norm
from transformers import BitsAndBytesConfig, FineGrainedFP8Config

from modelyard_runtime.errors import ArgumentsInvalid
from modelyard_runtime.hardware import multiplies_bytes, processor_flags
from modelyard_runtime.model_files import read_object
from modelyard_runtime.models import int4

Quantization = Literal["none", "int8", "int4", "fp8"]
Wish = Literal["auto", "none", "int8", "int4", "fp8"]

#: Largest number of eight bits, and the zero that makes activations of -127 … 127 unsigned, as the kernels want them.
_MOST, _ZERO = 127, 128
_ROWS = 8
#: First generation of NVIDIA's GPUs with matrix units for fp8.
_FP8_CAPABILITY = (8, 9)
#: Instructions that the kernel of four bits is fast with, any of them.
_VECTORS = {"avx2", "avx512f"}


class Int8Linear(nn.Module):
    """Stands in for a linear layer, with weights of eight bits."""

    weight: torch.Tensor
    scales: torch.Tensor
    zeros: torch.Tensor
    centre: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(1).div_(_MOST).clamp_(min=1e-20)
        rounded = (weight / scales[:, None]).round_().to(torch.int8)
        packed = torch.ops.onednn.qlinear_prepack(rounded, [_ROWS, self.in_features])
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("zeros", torch.zeros(self.out_features, dtype=torch.long), persistent=False)
        self.register_buffer("centre", torch.tensor(_ZERO + 0.5), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)
        self._product = torch.ops.onednn.qlinear_pointwise.default

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns ``rows`` [..., in_features] times the weights, [..., out_features]."""
        wide = rows.float()
        largest = vector_norm(wide, torch.inf, dim=-1, keepdim=True).clamp_(min=1e-20)
        integers = torch.addcdiv(self.centre, wide, largest, value=_MOST).to(torch.uint8)
        product: torch.Tensor = self._product(
            integers, 1 / _MOST, _ZERO, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        product.mul_(largest)
        if self.bias is not None:
            product.add_(self.bias)
        return product.to(rows.dtype)


def check(quantization: Quantization, device: torch.device) -> None:
    """Raises ArgumentsInvalid when the device or the installation cannot do it."""
    flag = f"--quantization={quantization}"
    if quantization == "none":
        return
    if device.type == "cpu":
        _check_processor(quantization)
        return
    if device.type != "cuda":
        raise ArgumentsInvalid(f"{flag} is not there for {device.type}", "use --quantization=none")
    if quantization == "fp8":
        if torch.cuda.get_device_capability(device) < _FP8_CAPABILITY:
            raise ArgumentsInvalid(f"{flag}: this GPU has no matrix units for fp8", "use int8 or int4, or an L4, L40, H100 or newer")
    elif importlib.util.find_spec("bitsandbytes") is None:
        raise ArgumentsInvalid(f"{flag} needs the package bitsandbytes", "install it beside the runtime: pip install bitsandbytes")


def is_stored(folder: Path) -> bool:
    """Whether a folder's weights are in fewer bits already. Raises UnsupportedModel or WeightsNotFound where its config cannot be read."""
    return bool(read_object(folder / "config.json").get("quantization_config"))


def _check_processor(quantization: Quantization) -> None:
    flag = f"--quantization={quantization}"
    if quantization == "fp8":
        raise ArgumentsInvalid(f"{flag} needs a GPU", "use --quantization=int8 or int4 on a processor, or a node with a GPU")
    if quantization == "int8" and not multiplies_bytes():
        raise ArgumentsInvalid(f"{flag}: this processor has no instructions for products of bytes (VNNI)", "use --quantization=none")
    if quantization == "int4" and processor_flags().isdisjoint(_VECTORS):
        raise ArgumentsInvalid(f"{flag}: this processor has no wide vectors (AVX2 or AVX-512)", "use --quantization=none")


def choose(wish: Wish, size: int, above: int, *, stored: bool = False) -> Quantization:
    """Returns what weights of ``size`` bytes are to become: with ``auto`` four bits where that is more than ``above``.

    Weights that are ``stored`` in fewer bits stay as they are then.
    """
    if wish != "auto":
        return wish
    return "int4" if size > above and not stored else "none"


def loading_config(quantization: Quantization, device: torch.device, dtype: torch.dtype) -> Any | None:
    """Returns what Transformers is to quantise by while it loads; None where it is to load plain weights."""
    if device.type == "cpu" or quantization == "none":
        return None
    if quantization == "fp8":
        return FineGrainedFP8Config()
    if quantization == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype, bnb_4bit_use_double_quant=True)


def quantise(model: Any, quantization: Literal["int8", "int4"]) -> int:
    """Replaces a model's linear layers but that of the scores, on a processor, each layer's weights freed as it goes; returns how many."""
    scores = model.get_output_embeddings()
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and child is not scores and (quantization == "int8" or int4.fits(child)):
                setattr(module, name, Int8Linear(child) if quantization == "int8" else int4.Int4Linear(child))
                count += 1
    return count


def is_quantised(model: Any) -> bool:
    """Whether layers of a model round what they are given, by `quantise` or by a library's quantisation."""
    return getattr(model, "hf_quantizer", None) is not None or any(
        isinstance(part, Int8Linear | int4.Int4Linear) for part in model.modules()
    )
