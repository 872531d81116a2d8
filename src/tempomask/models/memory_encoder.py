"""SAM 2's memory encoder: a mask and the frame's feature become a memory (arXiv 2408.00714)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.ops.layers import LayerNorm2d

# sigmoid_scale_for_mem_enc and sigmoid_bias_for_mem_enc of the official configuration.
MASK_SCALE, MASK_BIAS = 20.0, -10.0


class MaskDownsampler(nn.Module):
    """(N, 1, S, S) mask to (N, C, S/16, S/16): four stride-2 convolutions and a projection."""

    def __init__(self, hidden_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for channels in (1, 4, 16, 64):
            convolution = nn.Conv2d(channels, channels * 4, 3, stride=2, padding=1)
            layers += [convolution, LayerNorm2d(channels * 4), nn.GELU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(256, hidden_dim, 1))

    def forward(self, mask: Tensor) -> Tensor:
        return self.layers(mask)


class FuserBlock(nn.Module):
    """ConvNeXt block: depthwise 7x7, norm, 4x MLP, layer scale, residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = LayerNorm2d(dim)
        self.expand = nn.Linear(dim, 4 * dim)
        self.contract = nn.Linear(4 * dim, dim)
        self.scale = nn.Parameter(torch.full((dim,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x)).permute(0, 2, 3, 1)
        y = self.scale * self.contract(F.gelu(self.expand(y)))
        return x + y.permute(0, 3, 1, 2)


class MemoryEncoder(nn.Module):
    """Fuses a mask with the raw (not memory-conditioned) image feature."""

    def __init__(self, hidden_dim: int, memory_dim: int) -> None:
        super().__init__()
        self.mask_downsampler = MaskDownsampler(hidden_dim)
        self.feature_projection = nn.Conv2d(hidden_dim, hidden_dim, 1)
        self.fuser = nn.Sequential(FuserBlock(hidden_dim), FuserBlock(hidden_dim))
        self.output = nn.Conv2d(hidden_dim, memory_dim, 1)

    def forward(self, features: Tensor, mask: Tensor) -> Tensor:
        """Features (1 or N, C, h, w), mask (N, 1, 16h, 16w) in [0, 1]: (N, memory_dim, h, w)."""
        downsampled = self.mask_downsampler(mask * MASK_SCALE + MASK_BIAS)
        return self.output(self.fuser(self.feature_projection(features) + downsampled))
