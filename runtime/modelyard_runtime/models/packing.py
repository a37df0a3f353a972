"""Weights laid out once for oneDNN's kernels, on CPU.

A plain linear layer makes the library lay out the weights anew in each call, which dominates at 2 to 32 rows: just where batched decoding
works. Packed, a step of 8 rows of a 135 M model in float32 takes 80 ms of one core instead of 111 ms, one of 16 rows 100 instead of 120,
one row 58 instead of 51, prompts the same. Products agree with the plain ones to float32 rounding.

oneDNN compiles and keeps a kernel for each pair of layer size and number of rows, about 0.7 MB: prompts of all lengths would fill 740 MB
for the four layer sizes of that model. With rows made up to multiples of 16 it is 60 MB, and steps are no slower.
"""

import torch
from torch import nn
from torch.nn.functional import pad

#: Rows that the layout is chosen for; measured: a hint of 64 makes no difference.
_ROWS = 8
#: Beyond this many rows, as only prompts have, rows are made up to a multiple of it.
_GRAIN = 16


class PackedLinear(nn.Module):
    """Stands in for a linear layer. ``weight`` is opaque: it has a dtype and a device, and no elements."""

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), _ROWS)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns ``rows`` [..., in_features] times the weights, [..., out_features]."""
        flat = rows.reshape(-1, self.in_features)
        count = len(flat)
        missing = -count % _GRAIN if count > _GRAIN else 0
        if missing:
            flat = pad(flat, (0, 0, 0, missing))
        product: torch.Tensor = torch.ops.mkldnn._linear_pointwise(flat, self.weight, self.bias, "none", [], "")
        return product[:count].view(*rows.shape[:-1], self.out_features)


def can_pack(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether `pack` works for weights of this data type on this device."""
    if device.type != "cpu" or not torch._C._has_mkldnn:
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported()))


def pack(model: nn.Module) -> int:
    """Replaces the linear layers of a model one by one, each layer's plain weights freed as it goes; returns how many."""
    count = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear:
                setattr(module, name, PackedLinear(child))
                count += 1
    return count
