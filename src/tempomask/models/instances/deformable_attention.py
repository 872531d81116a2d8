"""Multi-scale deformable attention in pure PyTorch (Deformable DETR, arXiv 2010.04159, Eq. 3).

B images, C hidden_dim, L levels from coarse to fine, K points a level, M cells of all levels, N
cells that attend to them: in Mask2Former the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Levels of Mask2Former, which attend to each other: strides 32, 16 and 8.
LEVELS = 3
# Cells that a level gains along each side as a table of rows.
SPARE = 3
Sizes = list[tuple[int, int]]


class DeformableAttention(nn.Module):
    """Each cell attends to K points on every level, at learned offsets from its own place."""

    def __init__(self, dim: int, num_heads: int, points: int, levels: int = LEVELS) -> None:
        super().__init__()
        self.num_heads, self.points, self.levels = num_heads, points, levels
        self.offsets = nn.Linear(dim, num_heads * levels * points * 2)
        self.weights = nn.Linear(dim, num_heads * levels * points)
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
        offsets = offsets.expand(self.num_heads, self.levels, self.points, 2).flatten()
        with torch.no_grad():
            self.offsets.bias.copy_(offsets)
        for layer in (self.value, self.output):
            nn.init.xavier_uniform_(layer.weight)
        for tensor in (self.offsets.weight, self.weights.weight, self.weights.bias):
            nn.init.zeros_(tensor)
        for tensor in (self.value.bias, self.output.bias):
            nn.init.zeros_(tensor)

    def forward(self, query: Tensor, cells: Tensor, places: Tensor, sizes: Sizes) -> Tensor:
        """Attend from query (B, N, C) at places (N, 2), x, y in [0, 1], to cells (B, M, C)."""
        batch, number, _ = query.shape
        shape = (batch, number, self.num_heads, self.levels, self.points)
        offsets = self.offsets(query).view(*shape, 2).float()
        weights = self.weights(query).view(*shape[:3], -1).float().softmax(-1).view(shape)
        values = self.value(cells).float().unflatten(-1, (self.num_heads, -1))
        sample = sample_grids
        if query.device.type == "cpu" and not torch.is_grad_enabled():
            sample = sample_rows
        sampled = sample(values, offsets, weights, places, sizes)
        return self.output(sampled.flatten(2).to(query.dtype))


def sample_grids(
    values: Tensor, offsets: Tensor, weights: Tensor, places: Tensor, sizes: Sizes
) -> Tensor:
    """The weighted sum of the values at all points, level by level: (B, N, heads, C / heads).

    values (B, M, heads, C / heads); offsets (B, N, heads, L, K, 2), x and y in cells of the level;
    weights (B, N, heads, L, K); places (N, 2), in [0, 1].
    """
    batch, _, heads, width = values.shape
    number = offsets.shape[1]
    result = values.new_zeros(())
    start = 0
    for level, (rows, columns) in enumerate(sizes):
        image = values[:, start : start + rows * columns].permute(0, 2, 3, 1).flatten(0, 1)
        start += rows * columns
        scale = offsets.new_tensor([columns, rows])
        grid = 2 * (places[:, None, None] + offsets[:, :, :, level] / scale) - 1
        grid = grid.transpose(1, 2).flatten(0, 1)
        # (B * heads, C / heads, N, K)
        sampled = F.grid_sample(image.unflatten(2, (rows, columns)), grid, align_corners=False)
        share = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        result = result + (sampled * share).sum(-1)
    return result.view(batch, heads, width, number).permute(0, 3, 1, 2)


def sample_rows(
    values: Tensor, offsets: Tensor, weights: Tensor, places: Tensor, sizes: Sizes
) -> Tensor:
    """The same as `sample_grids` in one pass: a weighted sum of rows of the values.

    A bilinear sample is a weighted sum of four cells, so that all points of a cell and head are one
    bag of 4 L K rows, whose values lie side by side. Fast on a CPU, without a backward pass.
    """
    batch, _, heads, width = values.shape
    number = offsets.shape[1]
    table, sizes = _with_margin(values, sizes)
    tall, wide = offsets.new_tensor(sizes).T[..., None]
    # In cells of the table: (B, N, heads, L, K); what lies further out falls on the margin.
    x = offsets[..., 0] + (places[:, 0, None, None] * (wide - SPARE) + 0.5)[:, None]
    y = offsets[..., 1] + (places[:, 1, None, None] * (tall - SPARE) + 0.5)[:, None]
    x = x.clamp_(min=0).minimum(wide - SPARE + 1)
    y = y.clamp_(min=0).minimum(tall - SPARE + 1)
    left, above = x.floor(), y.floor()
    x -= left
    y -= above
    # The first of the four rows of a point, and how far the others lie from it.
    start = offsets.new_tensor(
        [sum(h * w for h, w in sizes[:level]) for level in range(len(sizes))]
    )
    image = torch.arange(batch, device=x.device)[:, None, None, None, None] * table.shape[1]
    head = torch.arange(heads, device=x.device)[:, None, None]
    first = (above * wide + left + start[:, None]).int() * heads + (image * heads + head).int()
    across, down = torch.full_like(wide, heads), wide * heads
    near = torch.stack([torch.zeros_like(wide), across, down, down + across], -1).int()
    below = weights * y
    above_share = weights - below
    shares = torch.stack([above_share, above_share * x, below, below * x], -1)
    shares[..., 0::2] -= shares[..., 1::2]
    summed = F.embedding_bag(
        (first[..., None] + near).flatten(0, 2).flatten(1),
        table.view(-1, width),
        mode="sum",
        per_sample_weights=shares.flatten(0, 2).flatten(1),
    )
    return summed.view(batch, number, heads, width)


def _with_margin(values: Tensor, sizes: Sizes) -> tuple[Tensor, Sizes]:
    """Put zeros around each level of values (B, M, heads, C / heads); also gives the new sizes."""
    levels = values.flatten(2).split([rows * columns for rows, columns in sizes], 1)
    padded = [
        # One cell before the first; the two behind the last are a point's own and its neighbour.
        F.pad(level.unflatten(1, size), (0, 0, 1, SPARE - 1, 1, SPARE - 1)).flatten(1, 2)
        for level, size in zip(levels, sizes, strict=True)
    ]
    table = torch.cat(padded, 1).unflatten(2, values.shape[2:])
    return table, [(rows + SPARE, columns + SPARE) for rows, columns in sizes]
