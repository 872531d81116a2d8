"""Cutie's object transformer (arXiv 2310.12982, section 3.2) and the summaries that it reads.

N objects, Q queries of which the first half looks at the object and the other at what is not, C
channels, h x w pixels at stride 16.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.attention import MultiheadAttention
from tempomask.models.matching.blocks import aggregate
from tempomask.models.matching.config import MatchingConfig

POSITION_SCALE, POSITION_TEMPERATURE = 32.0, 128.0


@lru_cache(maxsize=8)
def position_encoding(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """(h, w, C): sines and cosines of the column, then of the row, of places from 0 to 32."""
    half = dim // 2
    rates = POSITION_TEMPERATURE ** -(torch.arange(0, half, 2, device=device) / half)

    def encoded(length: int) -> Tensor:
        places = torch.arange(length, device=device) / (length - 1 + 1e-6) * POSITION_SCALE
        angles = places[:, None] * rates
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)

    columns = encoded(width)[None].expand(height, -1, -1)
    rows = encoded(height)[:, None].expand(-1, width, -1)
    return torch.cat([columns, rows], dim=-1)


class ChannelBlock(nn.Module):
    """A residual block whose channels are weighed by a short convolution over their means (ECA)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim, dim, 3, padding=1)
        self.conv2 = nn.Conv2d(dim, dim, 3, padding=1)
        kernel = int((math.log2(dim) + 1) // 2) | 1
        self.weigh = nn.Conv1d(1, 1, kernel, padding=kernel // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(F.relu(x))))
        weights = self.weigh(y.mean((2, 3))[:, None]).sigmoid()
        return y * weights[:, 0, :, None, None] + x


class ObjectTransformerBlock(nn.Module):
    """Queries read pixels under a mask, each other, and pixels read them; norms come first."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        dim, heads = config.up_dims[0], config.num_heads
        self.from_pixels = MultiheadAttention(dim, heads)
        self.from_pixels_norm = nn.LayerNorm(dim)
        self.among_queries = MultiheadAttention(dim, heads)
        self.among_queries_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, config.feedforward_dim)
        self.contract = nn.Linear(config.feedforward_dim, dim)
        self.feedforward_norm = nn.LayerNorm(dim)
        self.from_queries = MultiheadAttention(dim, heads)
        self.pixels = ChannelBlock(dim)

    def forward(
        self, queries: Tensor, pixels: Tensor, query_place: Tensor, place: Tensor, blocked: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Shapes: queries (N, Q, C), pixels (N, C, h, w), place (N, hw, C), blocked (N, Q, hw)."""
        flat = pixels.flatten(2).transpose(1, 2)
        mask = torch.zeros_like(blocked, dtype=flat.dtype).masked_fill(blocked, -torch.inf)
        # After the first two norms their output is what is added to, after the third it is not.
        x = self.from_pixels_norm(queries)
        x = x + self.from_pixels(x + query_place, flat + place, flat, mask[:, None])
        x = self.among_queries_norm(x)
        x = x + self.among_queries(x + query_place, x + query_place, x)
        hidden = F.relu(self.expand(self.feedforward_norm(x)))
        queries = x + self.contract(hidden)
        flat = flat + self.from_queries(flat + place, queries + query_place, queries)
        return queries, self.pixels(flat.transpose(1, 2).unflatten(2, pixels.shape[2:]))


class ObjectTransformer(nn.Module):
    """Readout (N, C, h, w) of objects that came together to the same, with their summaries."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        dim, count = config.up_dims[0], config.num_queries
        self.queries, self.places = nn.Embedding(count, dim), nn.Embedding(count, dim)
        self.summary_to_query, self.summary_to_place = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.pixel, self.pixel_place = nn.Conv2d(dim, dim, 1), nn.Conv2d(dim, dim, 1)
        self.blocks = nn.ModuleList(ObjectTransformerBlock(config) for _ in range(config.blocks))
        self.masks = nn.ModuleList(nn.Conv2d(dim, 1, 1) for _ in range(config.blocks + 1))

    def forward(self, readout: Tensor, summaries: Tensor) -> Tensor:
        """Summaries are (N, Q, C + 1): weighted sums, the weight last."""
        height, width = readout.shape[2:]
        means = summaries[..., :-1] / (summaries[..., -1:] + 1e-4)
        queries = self.queries.weight + self.summary_to_query(means)
        query_place = self.places.weight + self.summary_to_place(means)
        grid = position_encoding(height, width, readout.shape[1], readout.device).flatten(0, 1)
        place = grid + self.pixel_place(readout).flatten(2).transpose(1, 2)
        pixels = self.pixel(readout)
        for block, predict in zip(self.blocks, self.masks, strict=False):
            blocked = self._blocked(predict(F.relu(pixels))[:, 0], queries.shape[1])
            queries, pixels = block(queries, pixels, query_place, place, blocked)
        return pixels

    def _blocked(self, logits: Tensor, queries: int) -> Tensor:
        """(N, Q, hw): where queries may not look; one that could look nowhere looks everywhere."""
        joint = aggregate(logits.sigmoid()).flatten(1)
        inside = joint[1:] >= joint.amax(dim=0)
        half = queries // 2
        blocked = torch.stack([~inside] * half + [inside] * half, dim=1)
        return blocked & ~blocked.all(dim=-1, keepdim=True)


class ObjectSummarizer(nn.Module):
    """Values (N, V, h, w) under masks (N, h, w) to sums with their weight, (N, Q, C + 1)."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        dim, self.count = config.up_dims[0], config.num_queries
        self.input = nn.Linear(config.value_dim, dim)
        self.feature = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.weights = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, self.count))

    def forward(self, masks: Tensor, values: Tensor) -> Tensor:
        height, width = masks.shape[1:]
        x = self.input(values.permute(0, 2, 3, 1))
        x = x + position_encoding(height, width, x.shape[-1], x.device)
        with torch.autocast(x.device.type, enabled=False):
            x = x.float().flatten(1, 2)
            inside = masks.float().flatten(1)[..., None].expand(-1, -1, self.count // 2)
            weights = self.weights(x).sigmoid() * torch.cat([inside, 1 - inside], dim=-1)
            sums = weights.transpose(1, 2) @ self.feature(x)
            return torch.cat([sums, weights.sum(dim=1)[..., None]], dim=-1)
