"""Weights laid out once for the kernels of the library, on CPU.

A plain linear layer makes the library lay out the weights anew in each call, which dominates at 3 to 32 rows: just where batched decoding
works. Two libraries take weights in a layout of their own:

- MKL, in float32 on Intel's processors. All products of a 135 M model on one core take 37 ms at 1 row (plain 37, oneDNN 41), 53 at 8
  (91, 54), 86 at 32 (117, 93), 216 at 128 (279, 252).
- oneDNN, in float32 elsewhere and in bfloat16. It compiles and keeps a kernel for each pair of layer size and number of rows, about 0.7 MB:
  prompts of all lengths would fill 740 MB for the four layer sizes of a 135 M model. With rows made up to multiples of 16 it is 60 MB.

Most weights come in 16 bits, and a float32 that holds one is half zeros. A second copy of 16 bits serves steps of few rows, which are bound
by the reading of weights: 1.3 to 1.45 times as fast at 1 to 12 rows, 0.9 at 16 (a 0.6 B shape on one core). It is made where it says what
the weights say, and where memory is plenty.

Products agree with the plain ones to rounding.
"""

import logging
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import nn
from torch.nn.functional import linear as plain_product
from torch.nn.functional import pad

from modelyard_runtime.hardware import available_memory, is_intel, return_freed

logger = logging.getLogger(__name__)

#: Rows that oneDNN's layout is chosen for; measured: a hint of 64 makes no difference.
_ONEDNN_ROWS = 8
#: Beyond this many rows, as only prompts have, oneDNN's rows are made up to a multiple of it.
_GRAIN = 16
#: Rows that MKL's layout is chosen for. It serves every number; measured: chosen for 8, prompts take up to four times as long.
_MKL_ROWS = 256
#: Rows up to which weights of 16 bits are faster.
_FEW_ROWS = 12
#: Share of the memory available that copies of all layers may take: a container that just holds a model has none.
_COPIES = 0.2
#: Largest change of a layer's weights in 16 bits, of their norm: four times float32's rounding. Weights made in 32 bits change by 1e-4.
_LOST = 4 * torch.finfo(torch.float32).eps


class PackedLinear(nn.Module, ABC):
    """Stands in for a linear layer. ``weight`` is opaque: it has a dtype and a device, and no elements.

    ``narrow`` are the same weights in 16 bits, for few rows, where there is such a copy.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None
    narrow: Any = None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.register_buffer("weight", self.packed(linear.weight.detach()), persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    @abstractmethod
    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns weights [out_features, in_features] in the library's layout."""

    @abstractmethod
    def product(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Returns ``rows`` [..., in_features], of which there are ``count``, times the weights, [..., out_features]."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns ``rows`` [..., in_features] times the weights, [..., out_features]."""
        count = rows.numel() // self.in_features
        if self.narrow is not None and 0 < count <= _FEW_ROWS and rows.dim() > 1:
            few: torch.Tensor = torch.ops.quantized.linear_dynamic_fp16.default(rows, self.narrow)
            return few
        return self.product(rows, count)


class MklLinear(PackedLinear):
    """A linear layer by MKL."""

    def __init__(self, linear: nn.Linear):
        super().__init__(linear)
        # The operator asks the plain weights for their shape, and multiplies by them only when told another number of rows than it gets.
        self._shape = linear.weight.new_empty(1).expand(linear.weight.shape)
        self._product = torch.ops.mkl._mkl_linear.default

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns weights [out_features, in_features] in MKL's layout."""
        layout: torch.Tensor = torch.ops.mkl._mkl_reorder_linear_weight(weight.contiguous(), _MKL_ROWS)
        return layout

    def product(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Returns ``rows`` times the weights."""
        product: torch.Tensor = self._product(rows, self.weight, self._shape, self.bias, count)
        return product


class OneDnnLinear(PackedLinear):
    """A linear layer by oneDNN."""

    def packed(self, weight: torch.Tensor) -> torch.Tensor:
        """Returns weights [out_features, in_features] in oneDNN's layout."""
        layout: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight, _ONEDNN_ROWS)
        return layout

    def product(self, rows: torch.Tensor, count: int) -> torch.Tensor:
        """Returns ``rows`` times the weights."""
        flat = rows.reshape(-1, self.in_features)
        missing = -count % _GRAIN if count > _GRAIN else 0
        if missing:
            flat = pad(flat, (0, 0, 0, missing))
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(flat, self.weight, self.bias, "none", [], "")
        return product[:count].view(*rows.shape[:-1], self.out_features)


def packing(dtype: torch.dtype, device: torch.device) -> type[PackedLinear] | None:
    """Returns the layer to pack weights of this data type into on this device; None where plain ones are best."""
    if device.type != "cpu":
        return None
    if dtype == torch.float32 and is_intel() and torch._C.has_mkl:
        return MklLinear
    if torch._C._has_mkldnn and (dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())):
        return OneDnnLinear
    return None


def pack(model: nn.Module, kind: type[PackedLinear]) -> int:
    """Replaces the linear layers of a model one by one, each layer's plain weights freed as it goes; returns how many.

    The first layer of each size is checked: one whose product is off leaves the layers of its size plain.
    """
    right: dict[tuple[int, int], bool] = {}
    count, copies = 0, 0
    spare = available_memory() * _COPIES
    plenty = 2 * sum(part.weight.numel() for part in model.modules() if type(part) is nn.Linear) <= spare
    # A list of all modules would hold each plain layer until the last is packed.
    for module in [part for part in model.modules() if type(part) is not nn.Linear]:
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                replacement = kind(child)
                replacement.narrow = narrowed(child) if plenty else None
                size = (child.in_features, child.out_features)
                if size not in right:
                    right[size] = _agrees(child, replacement)
                if right[size]:
                    setattr(module, name, replacement)
                    count += 1
                    copies += replacement.narrow is not None
        return_freed()
    logger.info("packed %d layers, %d of them in 16 bits too", count, copies)
    return count


@torch.inference_mode()
def narrowed(linear: nn.Linear) -> Any | None:
    """Returns a layer in 16 bits for the kernel of few rows, or None.

    None where there is no such kernel, and where the copy would differ by more than what sums in float32 lose anyway: weights made in 16
    bits lose nothing but the last bits of their smallest.
    """
    weight = linear.weight.detach()
    if weight.dtype != torch.float32 or "fbgemm" not in torch.backends.quantized.supported_engines:
        return None
    change = torch.linalg.vector_norm(weight.half().float().sub_(weight))
    if not change <= _LOST * torch.linalg.vector_norm(weight):
        return None
    return torch.ops.quantized.linear_prepack_fp16(weight, None if linear.bias is None else linear.bias.detach())


@torch.inference_mode()
def _agrees(plain: nn.Linear, packed: PackedLinear) -> bool:
    """Whether both layers give the same products, for one row, for a batch and for a prompt."""
    tolerance = 1e-3 if plain.weight.dtype == torch.float32 else 5e-2
    for count in (1, 5, 40):
        rows = torch.linspace(-1, 1, count * plain.in_features, dtype=plain.weight.dtype).view(count, plain.in_features)
        wanted = plain_product(rows, plain.weight, plain.bias).float()
        if not float((packed(rows).float() - wanted).abs().max()) <= tolerance * float(wanted.abs().max().clamp(min=1e-6)):
            return False
    return True
