"""ViT-Adapter on DINOv2, DVIS++'s largest backbone (arXiv 2205.08534; DVIS++, arXiv 2312.13305).

A plain transformer keeps one resolution, of stride 16. Beside it run convolutions of strides 4, 8,
16 and 32 (the spatial prior); after every few blocks their cells take in what the transformer has
found, by deformable attention (the extractors). As DVIS++ has it, nothing flows the other way.

B images, C channels, h x w the stride-16 grid, N cells of strides 8, 16 and 32.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import ViTAdapterConfig
from tempomask.models.instances.deformable_attention import DeformableAttention, Sizes
from tempomask.models.instances.pixel_decoder import cell_places
from tempomask.ops.attention import multi_head_attention
from tempomask.ops.layers import ConvolutionNorm, FrozenBatchNorm, learned

MLP_RATIO = 4
# DINOv2's layer norms; its scales of branches begin at this.
EPSILON, SCALE = 1e-6, 1e-5
# Strides of the cells that the extractors fill, in shares of the transformer's.
CELL_STRIDES = (0.5, 1, 2)


def layer_norm(dim: int) -> nn.LayerNorm:
    """DINOv2's."""
    return nn.LayerNorm(dim, eps=EPSILON)


class DINOv2Block(nn.Module):
    """Attention over all tokens (B, T, C), then an MLP; each branch is scaled by channel."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = layer_norm(dim)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.output = nn.Linear(dim, dim)
        self.attention_scale = nn.Parameter(torch.full((dim,), SCALE))
        self.mlp_norm = layer_norm(dim)
        self.expand = nn.Linear(dim, MLP_RATIO * dim)
        self.contract = nn.Linear(MLP_RATIO * dim, dim)
        self.mlp_scale = nn.Parameter(torch.full((dim,), SCALE))

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.num_heads, -1))
        attended = multi_head_attention(*qkv.permute(2, 0, 3, 1, 4)).transpose(1, 2).flatten(2)
        x = x + self.attention_scale * self.output(attended)
        return x + self.mlp_scale * self.contract(F.gelu(self.expand(self.mlp_norm(x))))


class SpatialPrior(nn.Module):
    """Convolutions from an image (B, 3, H, W) to maps (B, C, ., .) of strides 4, 8, 16 and 32."""

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.stem = nn.ModuleList(
            [
                ConvolutionNorm(3, channels, 3, 2),
                ConvolutionNorm(channels, channels, 3),
                ConvolutionNorm(channels, channels, 3),
            ]
        )
        widths = (channels, 2 * channels, 4 * channels, 4 * channels)
        self.coarser = nn.ModuleList(
            ConvolutionNorm(before, after, 3, 2)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        self.projections = nn.ModuleList(nn.Conv2d(width, dim, 1) for width in widths)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = image
        for layer in self.stem:
            x = F.relu(layer(x))
        maps = [F.max_pool2d(x, 3, 2, 1)]
        for layer in self.coarser:
            maps.append(F.relu(layer(maps[-1])))
        return [project(x) for project, x in zip(self.projections, maps, strict=True)]


class Extractor(nn.Module):
    """Cells (B, N, C) attend to the transformer's tokens (B, h w, C), then mix with neighbours."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        dim, hidden = config.dim, int(config.dim * config.mixing_ratio)
        self.query_norm, self.feature_norm = layer_norm(dim), layer_norm(dim)
        self.attention = DeformableAttention(dim, config.num_heads, config.points, levels=1)
        self.mixing_norm = layer_norm(dim)
        self.expand = nn.Linear(dim, hidden)
        self.mix = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.contract = nn.Linear(hidden, dim)

    def forward(self, cells: Tensor, tokens: Tensor, places: Tensor, sizes: Sizes) -> Tensor:
        """Places (N, 2) of the cells, x, y in [0, 1]; sizes of their three maps, fine to coarse."""
        query, features = self.query_norm(cells), self.feature_norm(tokens)
        cells = cells + self.attention(query, features, places, [sizes[1]])
        hidden = self.expand(self.mixing_norm(cells))
        levels = hidden.split([height * width for height, width in sizes], 1)
        mixed = [
            self.mix(level.transpose(1, 2).unflatten(2, size)).flatten(2).transpose(1, 2)
            for level, size in zip(levels, sizes, strict=True)
        ]
        return cells + self.contract(F.gelu(torch.cat(mixed, 1)))


class ViTAdapter(nn.Module):
    """image (B, 3, H, W) to four maps of strides 4, 8, 16, 32, each normalised."""

    def __init__(self, config: ViTAdapterConfig) -> None:
        super().__init__()
        dim = config.dim
        self.config, self.channels = config, (dim,) * 4
        self.patch_embedding = nn.Conv2d(3, dim, config.patch_size, config.patch_size)
        self.cls_token = learned(1, 1, dim)
        self.position = learned(1, 1 + config.position_size**2, dim)
        self.blocks = nn.ModuleList(DINOv2Block(dim, config.num_heads) for _ in range(config.depth))
        self.prior = SpatialPrior(config.prior_channels, dim)
        self.level_embedding = learned(3, dim)
        # One after each part of the blocks, and two more after the last.
        self.extractors = nn.ModuleList(Extractor(config) for _ in range(config.parts + 2))
        self.finer = nn.ConvTranspose2d(dim, dim, 2, 2)
        self.norms = nn.ModuleList(FrozenBatchNorm(dim) for _ in range(4))

    def position_encoding(self, height: int, width: int) -> Tensor:
        """(1, 1 + height * width, C), from the grid of DINOv2's training."""
        side = self.config.position_size
        grid = self.position[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        # The tenth of a cell is DINOv2's own, and moves the samples a little.
        scale = ((height + 0.1) / side, (width + 0.1) / side)
        grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
        return torch.cat([self.position[:, :1].float(), grid.flatten(2).transpose(1, 2)], 1)

    def forward(self, image: Tensor) -> list[Tensor]:
        finest, *maps = self.prior(image)
        sizes = [(x.shape[2], x.shape[3]) for x in maps]
        levels = zip(maps, self.level_embedding, strict=True)
        cells = torch.cat([x.flatten(2).transpose(1, 2) + embedding for x, embedding in levels], 1)
        places = cell_places(sizes, image.device)
        patches = self.patch_embedding(image).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(image), -1, -1).to(patches.dtype), patches], 1)
        x = x + self.position_encoding(*sizes[1]).to(x.dtype)
        found, each = [], len(self.blocks) // self.config.parts
        for part in range(self.config.parts):
            for index in range(part * each, (part + 1) * each):
                x = self.blocks[index](x)
            last = part + 1 == self.config.parts
            for extractor in self.extractors[part : None if last else part + 1]:
                cells = extractor(cells, x[:, 1:], places, sizes)
            found.append(x[:, 1:].transpose(1, 2).unflatten(2, sizes[1]))
        parts = cells.split([height * width for height, width in sizes], 1)
        maps = [
            part.transpose(1, 2).unflatten(2, size) for part, size in zip(parts, sizes, strict=True)
        ]
        return self._joined([self.finer(maps[0]) + finest, *maps], found)

    def _joined(self, maps: list[Tensor], found: list[Tensor]) -> list[Tensor]:
        """The cells' maps with those of the transformer's four parts, which lie at stride 16."""
        resized = [
            x
            if x.shape[2:] == map_.shape[2:]
            else F.interpolate(x, map_.shape[2:], mode="bilinear", align_corners=False)
            for x, map_ in zip(found, maps, strict=True)
        ]
        return [norm(map_ + x) for norm, map_, x in zip(self.norms, maps, resized, strict=True)]
