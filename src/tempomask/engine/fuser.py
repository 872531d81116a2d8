"""The memory encoder's ConvNeXt block with packed layers; the GELU happens inside the product."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempomask.engine.packed import fast_linear, linear_of
from tempomask.models.memory_encoder import FuserBlock


class FastFuserBlock(nn.Module):
    """The same function as the `FuserBlock` it is made of; the layer scale joins the last layer."""

    def __init__(self, plain: FuserBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.depthwise, self.norm = plain.depthwise, plain.norm
        self.expand = fast_linear(plain.expand, dtype, "gelu")
        scale, layer = plain.scale, plain.contract
        scaled = linear_of(scale[:, None] * layer.weight, scale * layer.bias)
        self.contract = fast_linear(scaled, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (N, C, h, w) to the same shape."""
        y = self.norm(self.depthwise(x)).permute(0, 2, 3, 1)
        return x + self.contract(self.expand(y)).permute(0, 3, 1, 2)
