"""The Swin transformer behind Mask2Former (arXiv 2103.14030): shifted windows, merged patches."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import SwinConfig
from tempomask.ops.attention import multi_head_attention
from tempomask.ops.windows import partition, unpartition

PATCH, MLP_RATIO = 4, 4
# Added to the scores of token pairs that a shift has brought into one window.
APART = -100.0


class SwinBlock(nn.Module):
    """Window attention with relative positions, then an MLP; maps are (B, H, W, C)."""

    def __init__(self, dim: int, num_heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window, self.shift = num_heads, window, shift
        self.attention_norm = nn.LayerNorm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, num_heads))
        self.mlp_norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, MLP_RATIO * dim)
        self.contract = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor, apart: Tensor) -> Tensor:
        """apart: (W, 1, w*w, w*w) scores of a shifted map's windows, see `separation`."""
        x = x + self.attend(self.attention_norm(x), apart)
        return x + self.contract(F.gelu(self.expand(self.mlp_norm(x))))

    def attend(self, x: Tensor, apart: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        window, shift = self.window, self.shift
        # Padding comes before the shift, so that it rolls with the map.
        x = F.pad(x, (0, 0, 0, -width % window, 0, -height % window))
        padded = (x.shape[1], x.shape[2])
        if shift:
            x = x.roll((-shift, -shift), (1, 2))
        tokens = partition(x, window).flatten(1, 2)
        qkv = self.qkv(tokens).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        bias = self.position_bias[relative_index(window, x.device)].permute(2, 0, 1)[None]
        if shift:
            bias = (bias + apart).repeat(batch, 1, 1, 1)
        attended = multi_head_attention(query, key, value, bias.to(query.dtype))
        tokens = self.output(attended.transpose(1, 2).flatten(2))
        x = unpartition(tokens.view(-1, window, window, dim), padded)
        if shift:
            x = x.roll((shift, shift), (1, 2))
        return x[:, :height, :width]


def relative_index(window: int, device: torch.device) -> Tensor:
    """(w*w, w*w): row of the position table for each pair of tokens of a window."""
    place = torch.arange(window, device=device)
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    down = rows.flatten()[:, None] - rows.flatten()[None] + window - 1
    right = columns.flatten()[:, None] - columns.flatten()[None] + window - 1
    return down * (2 * window - 1) + right


def separation(size: tuple[int, int], window: int, shift: int, device: torch.device) -> Tensor:
    """(W, 1, w*w, w*w): 0 for pairs that were neighbours before the shift, else APART."""
    region = torch.zeros((1, *(side + -side % window for side in size), 1), device=device)
    bands = (slice(0, -window), slice(-window, -shift), slice(-shift, None))
    for row, rows in enumerate(bands):
        for column, columns in enumerate(bands):
            region[:, rows, columns] = 3 * row + column
    regions = partition(region, window).flatten(1)
    return (regions[:, None, None] != regions[:, None, :, None]) * APART


class PatchMerging(nn.Module):
    """(B, H, W, C) to (B, ceil(H/2), ceil(W/2), 2C)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        corners = [x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)]
        return self.reduction(self.norm(torch.cat(corners, -1)))


class SwinStage(nn.Module):
    """Blocks that alternate between plain and shifted windows, then the merging of patches."""

    def __init__(self, dim: int, blocks: int, num_heads: int, window: int, merges: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2
        self.blocks = nn.ModuleList(
            SwinBlock(dim, num_heads, window, self.shift if index % 2 else 0)
            for index in range(blocks)
        )
        self.merge = PatchMerging(dim) if merges else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The map after the blocks, and the same with its patches merged for the next stage."""
        size = (x.shape[1], x.shape[2])
        apart = separation(size, self.window, self.shift, x.device)
        for block in self.blocks:
            x = block(x, apart)
        return x, (x if self.merge is None else self.merge(x))


class Swin(nn.Module):
    """image (B, 3, H, W) to four maps of strides 4, 8, 16, 32, each normalised."""

    def __init__(self, config: SwinConfig) -> None:
        super().__init__()
        depth = len(config.blocks)
        self.channels = tuple(config.embed_dim * 2**stage for stage in range(depth))
        self.patch_embedding = nn.Conv2d(3, config.embed_dim, PATCH, PATCH)
        self.patch_norm = nn.LayerNorm(config.embed_dim)
        self.stages = nn.ModuleList(
            SwinStage(dim, blocks, heads, config.window_size, merges=stage + 1 < depth)
            for stage, (dim, blocks, heads) in enumerate(
                zip(self.channels, config.blocks, config.num_heads, strict=True)
            )
        )
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for dim in self.channels)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = self.patch_norm(self.patch_embedding(image).permute(0, 2, 3, 1))
        maps = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x, following = stage(x)
            maps.append(norm(x).permute(0, 3, 1, 2))
            x = following
        return maps
