"""The neck and the mask decoder's 1x1 projections of its fine maps, as one product.

SAM 2 widens strides 4 and 8 to 256 channels only to narrow them to 32 and 64 at once; two linear
maps in a row are one, and the wide maps (134 MB in float32 at 1024 pixels) need not exist.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.engine.packed import composed, fast_linear, linear_of
from tempomask.models.mask_decoder import MaskDecoder
from tempomask.models.neck import FeaturePyramidNeck


class FusedNeck(nn.Module):
    """Maps of strides 4, 8 (of decoder widths) and 16 (of hidden_dim), from channels-last maps."""

    def __init__(self, neck: FeaturePyramidNeck, decoder: MaskDecoder, dtype: torch.dtype) -> None:
        super().__init__()
        narrow = [decoder.stride_4, decoder.stride_8]
        laterals = [_linear(lateral) for lateral in neck.laterals]
        fused = [composed(a, _linear(b)) for a, b in zip(laterals, narrow, strict=False)]
        layers = [fast_linear(layer, dtype) for layer in (*fused, *laterals[2:])]
        self.laterals = nn.ModuleList(layers)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: (B, C_i, H_i, W_i), finest first, channels last in memory."""
        maps = [
            lateral(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
            for lateral, x in zip(self.laterals, features, strict=True)
        ]
        if len(maps) == 4:
            coarse = maps.pop()
            # As in the plain neck: the sum is taken in float32.
            maps[2] = maps[2] + F.interpolate(coarse.float(), scale_factor=2.0).to(coarse.dtype)
        return maps


def _linear(convolution: nn.Module) -> nn.Linear:
    """A 1x1 convolution as a linear layer on channels-last maps."""
    weight, bias = convolution.weight.data, convolution.bias.data  # type: ignore[union-attr]
    return linear_of(weight.flatten(1), bias)  # type: ignore[arg-type]
