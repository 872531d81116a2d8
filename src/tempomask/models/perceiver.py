"""EdgeTAM's 2D spatial perceiver: few tokens in place of a frame's memory (arXiv 2501.07256, 3.2).

Learned latents look at the memory: the global ones at all of it, those of a grid each at its own
window, so that they keep their place in the image. Both go through the same layers.

N objects, C memory_dim, h x w the stride-16 grid, G global latents, g side of the grid of others.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import PerceiverConfig
from tempomask.ops.attention import attention
from tempomask.ops.layers import learned
from tempomask.ops.position import grid_sine
from tempomask.ops.windows import partition

MLP_RATIO = 4


class PerceiverAttention(nn.Module):
    """Attention of a single head, without biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.query = nn.Linear(dim, dim, bias=False)
        self.key_value = nn.Linear(dim, 2 * dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor | None = None) -> Tensor:
        """Let x (N, A, C) attend to memory (N, B, C), whose positions join keys and values."""
        key, value = self.key_value(memory).chunk(2, dim=-1)
        if position is not None:
            key, value = key + position, value + position
        return self.output(attention(self.query(x), key, value))


class PerceiverMLP(nn.Module):
    """Layer norm and two linear layers without biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.expand = nn.Linear(dim, MLP_RATIO * dim, bias=False)
        self.contract = nn.Linear(MLP_RATIO * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.contract(F.gelu(self.expand(self.norm(x))))


class PerceiverLayer(nn.Module):
    """Latents attend to the memory, then to each other, with an MLP after either; all residual."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.latent_norm, self.memory_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.cross_attention, self.cross_mlp = PerceiverAttention(dim), PerceiverMLP(dim)
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention, self.self_mlp = PerceiverAttention(dim), PerceiverMLP(dim)

    def forward(self, x: Tensor, memory: Tensor, position: Tensor | None) -> Tensor:
        """Map latents x (N, A, C); memory and position as in `PerceiverAttention`."""
        x = x + self.cross_attention(self.latent_norm(x), self.memory_norm(memory), position)
        x = x + self.cross_mlp(x)
        normed = self.self_norm(x)
        x = x + self.self_attention(normed, normed)
        return x + self.self_mlp(x)


class SpatialPerceiver(nn.Module):
    """Memories (N, C, h, w) to (N, C, G + g g, 1): global tokens, then the grid's row by row."""

    def __init__(self, config: PerceiverConfig, dim: int) -> None:
        super().__init__()
        self.grid = config.grid
        self.latents = learned(config.latents, dim)
        self.grid_latents = learned(config.grid**2, dim)
        self.layers = nn.ModuleList(PerceiverLayer(dim) for _ in range(config.layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, memory: Tensor) -> Tensor:
        """Compress memories (N, C, h, w), of which h and w are multiples of g."""
        count, dim, height, width = memory.shape
        position = grid_sine(height, width, dim, memory.device).flatten(1).T.to(memory.dtype)
        tokens = memory.permute(0, 2, 3, 1)
        seen = self.latents.expand(count, -1, -1)
        placed = self.grid_latents.repeat(count, 1)[:, None]
        windows = partition(tokens, height // self.grid).flatten(1, 2)
        for layer in self.layers:
            seen = layer(seen, tokens.flatten(1, 2), position)
            placed = layer(placed, windows, None)
        placed = placed.view(count, self.grid**2, dim)
        return self.norm(torch.cat([seen, placed], dim=1)).transpose(1, 2)[..., None]
