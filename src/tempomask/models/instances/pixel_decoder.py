"""Mask2Former's pixel decoder: deformable attention over three levels, a fourth for the masks.

Pure PyTorch, no compiled extension (TAR Eq. 1; Deformable DETR, arXiv 2010.04159). B pictures,
C hidden_dim, L levels from coarse to fine, K points a level, N cells of all levels.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import PixelDecoderConfig
from tempomask.ops.position import grid_sine

# Levels that attend to each other: strides 32, 16 and 8.
LEVELS = 3
NORM_GROUPS = 32


class PixelFeatures(NamedTuple):
    """mask_features (B, C, H/4, W/4); levels: (B, C, h, w) of strides 32, 16 and 8."""

    mask_features: Tensor
    levels: tuple[Tensor, ...]


class DeformableAttention(nn.Module):
    """Each cell attends to K points on every level, at learned offsets from its own place."""

    def __init__(self, dim: int, num_heads: int, points: int) -> None:
        super().__init__()
        self.num_heads, self.points = num_heads, points
        self.offsets = nn.Linear(dim, num_heads * LEVELS * points * 2)
        self.weights = nn.Linear(dim, num_heads * LEVELS * points)
        self.value = nn.Linear(dim, dim)
        self.output = nn.Linear(dim, dim)
        self._initialise()

    def _initialise(self) -> None:
        """Point k of a head begins k cells from the centre, in the head's own direction."""
        angles = torch.arange(self.num_heads).float() * (2 * math.pi / self.num_heads)
        ways = torch.stack([angles.cos(), angles.sin()], -1)
        ways = ways / ways.abs().amax(-1, keepdim=True)
        steps = torch.arange(1, self.points + 1).float()
        offsets = ways[:, None, None] * steps[:, None]
        offsets = offsets.expand(self.num_heads, LEVELS, self.points, 2).flatten()
        with torch.no_grad():
            self.offsets.bias.copy_(offsets)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for tensor in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(tensor)
        for tensor in (self.value.bias, self.output.bias):
            nn.init.zeros_(tensor)

    def forward(
        self, query: Tensor, cells: Tensor, places: Tensor, sizes: list[tuple[int, int]]
    ) -> Tensor:
        """query and cells (B, N, C), places (N, 2) as x, y in [0, 1], sizes: of the levels."""
        batch, number, dim = query.shape
        heads, points = self.num_heads, self.points
        offsets = self.offsets(query).view(batch, number, heads, LEVELS, points, 2).float()
        weights = self.weights(query).view(batch, number, heads, LEVELS * points).softmax(-1)
        weights = weights.view(batch, number, heads, LEVELS, points).float()
        # (B, N, C) to (B * heads, C / heads, N), then level by level
        values = self.value(cells).float().transpose(1, 2).reshape(batch * heads, -1, number)
        result = values.new_zeros(())
        for level, (height, width) in enumerate(sizes):
            start = sum(h * w for h, w in sizes[:level])
            picture = values[:, :, start : start + height * width].unflatten(2, (height, width))
            scale = offsets.new_tensor([width, height])
            grid = 2 * (places[:, None, None] + offsets[:, :, :, level] / scale) - 1
            grid = grid.transpose(1, 2).flatten(0, 1)
            # (B * heads, C / heads, N, K)
            sampled = F.grid_sample(picture, grid, align_corners=False)
            result = result + (sampled * _per_head(weights[:, :, :, level])).sum(-1)
        return self.output(result.reshape(batch, dim, number).transpose(1, 2).to(query.dtype))


def _per_head(weights: Tensor) -> Tensor:
    """(B, N, heads, K) to (B * heads, 1, N, K)."""
    return weights.transpose(1, 2).flatten(0, 1)[:, None]


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
        position = self._positions(sizes, x.device)
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

    def _positions(self, sizes: list[tuple[int, int]], device: torch.device) -> Tensor:
        """(N, C): sine encodings of the cells plus the embeddings of their levels."""
        return torch.cat(
            [
                grid_sine(height, width, self.dim, device).flatten(1).T + embedding
                for (height, width), embedding in zip(sizes, self.level_embedding, strict=True)
            ]
        )


def cell_places(sizes: list[tuple[int, int]], device: torch.device) -> Tensor:
    """(N, 2): x, y in [0, 1] of the centres of all cells, level after level."""
    places = []
    for height, width in sizes:
        y = (torch.arange(height, device=device) + 0.5) / height
        x = (torch.arange(width, device=device) + 0.5) / width
        places.append(torch.stack([x.repeat(height), y.repeat_interleave(width)], -1))
    return torch.cat(places)
