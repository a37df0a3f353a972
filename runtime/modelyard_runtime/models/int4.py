"""Weights of four bits on a processor, by PyTorch's own kernel.

Each row of weights is cut into groups of 32 numbers, and each group has a scale and an offset of its own, so that sixteen steps cover what
is in it. Activations are taken in bfloat16, the only type that the kernel is fast in: a product of 3,072 by 1,024 takes 0.1 ms at 1 row and
0.4 at 8, and 19 and 112 ms in float32 (two cores with AVX-512). bitsandbytes' layers of four bits take 31 ms there.
"""

import torch
from torch import nn

#: Numbers of a group, the fewer the more exact; the kernel takes no fewer.
GROUP = 32
#: Rows of weights that are packed together.
_ROWS = 16
_STEPS, _MIDDLE = 15, 8
#: Tile of the packed layout, which the kernel for processors does not look at.
_TILE = 1


class Int4Linear(nn.Module):
    """Stands in for a linear layer that `fits`, with weights of four bits."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        steps, scales = rounded(linear.weight.detach().float())
        packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(steps, _TILE)
        self.register_buffer("weight", packed, persistent=False)
        self.register_buffer("scales", scales, persistent=False)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach(), persistent=False)
        self._product = torch.ops.aten._weight_int4pack_mm_for_cpu.default

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Returns ``rows`` [..., in_features] times the weights, [..., out_features]."""
        flat = rows.reshape(-1, self.in_features).to(torch.bfloat16)
        product: torch.Tensor = self._product(flat, self.weight, GROUP, self.scales).to(rows.dtype)
        if self.bias is not None:
            product.add_(self.bias)
        return product.view(*rows.shape[:-1], self.out_features)


def fits(linear: nn.Linear) -> bool:
    """Whether a layer's sizes are those that the kernel takes."""
    return linear.in_features % GROUP == 0 and linear.out_features % _ROWS == 0


def rounded(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns steps 0 … 15, int32 of ``weight``'s shape [out, in], and [in / 32, out, 2] scales and offsets in bfloat16.

    A weight is (step - 8) · scale + offset. Steps are counted with the scale and offset as bfloat16 has them, which are the ones used.
    """
    grouped = weight.view(weight.shape[0], -1, GROUP)
    least, most = grouped.amin(-1, keepdim=True), grouped.amax(-1, keepdim=True)
    scale = ((most - least) / _STEPS).clamp_(min=1e-6).bfloat16()
    offset = (least + scale.float() * _MIDDLE).bfloat16()
    steps = ((grouped - offset.float()) / scale.float() + _MIDDLE).round_().clamp_(0, _STEPS)
    pairs = torch.cat((scale, offset), -1).transpose(0, 1).contiguous()
    return steps.to(torch.int32).view_as(weight), pairs
