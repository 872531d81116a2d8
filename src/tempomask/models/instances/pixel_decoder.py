"""Mask2Former's pixel decoder: deformable attention over three levels, a fourth for the masks.

TAR Eq. 1. B images, C hidden_dim, N cells of all levels.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import PixelDecoderConfig
from tempomask.models.instances.deformable_attention import LEVELS, DeformableAttention
from tempomask.ops.position import grid_sine

NORM_GROUPS = 32


class PixelFeatures(NamedTuple):
    """mask_features (B, C, H/4, W/4); levels: (B, C, h, w) of strides 32, 16 and 8."""

    mask_features: Tensor
    levels: tuple[Tensor, ...]


class PixelDecoderLayer(nn.Module):
    """Deformable self-attention and a feed-forward network, each with a norm after it."""

    def __init__(self, dim: int, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.attention = DeformableAttention(dim, config.num_heads, config.points)
        self.attention_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, config.feedforward_dim)
        self.contract = nn.Linear(config.feedforward_dim, dim)
        self.norm = nn.LayerNorm(dim)

    def forward(
        self, x: Tensor, position: Tensor, places: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        x = self.attention_norm(x + self.attention(x + position, x, places, sizes))
        return self.norm(x + self.contract(F.relu(self.expand(x))))


class NormedConvolution(nn.Module):
    """Convolution, then group norm."""

    def __init__(self, channels: int, output: int, kernel: int, bias: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, output, kernel, padding=kernel // 2, bias=bias)
        self.norm = nn.GroupNorm(NORM_GROUPS, output)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))


class PixelDecoder(nn.Module):
    """Backbone maps of strides 4, 8, 16, 32 to `PixelFeatures`."""

    def __init__(self, channels: tuple[int, ...], dim: int, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.dim = dim
        coarse_first = channels[:0:-1]
        self.projections = nn.ModuleList(
            NormedConvolution(width, dim, 1, bias=True) for width in coarse_first
        )
        self.level_embedding = nn.Parameter(torch.randn(LEVELS, dim))
        self.layers = nn.ModuleList(PixelDecoderLayer(dim, config) for _ in range(config.layers))
        self.lateral = NormedConvolution(channels[0], dim, 1, bias=False)
        self.smooth = NormedConvolution(dim, dim, 3, bias=False)
        self.mask_projection = nn.Conv2d(dim, dim, 1)

    def forward(self, maps: list[Tensor]) -> PixelFeatures:
        projected = [
            projection(x) for projection, x in zip(self.projections, maps[:0:-1], strict=True)
        ]
        sizes = [(x.shape[2], x.shape[3]) for x in projected]
        x = torch.cat([level.flatten(2).transpose(1, 2) for level in projected], 1)
        # (N, C): sine encodings of the cells plus the embeddings of their levels.
        position = torch.cat(
            [
                grid_sine(height, width, self.dim, x.device).flatten(1).T + embedding
                for (height, width), embedding in zip(sizes, self.level_embedding, strict=True)
            ]
        )
        places = cell_places(sizes, x.device)
        for layer in self.layers:
            x = layer(x, position, places, sizes)
        levels = tuple(
            part.transpose(1, 2).unflatten(2, size)
            for part, size in zip(x.split([h * w for h, w in sizes], 1), sizes, strict=True)
        )
        fine = self.lateral(maps[0])
        fine = fine + F.interpolate(levels[-1], fine.shape[-2:], mode="bilinear")
        return PixelFeatures(self.mask_projection(F.relu(self.smooth(fine))), levels)


def cell_places(sizes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """(N, 2): x, y in [0, 1] of the centres of all cells, level after level."""
    places = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        places.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], -1))
    return torch.cat(places)
