"""SAM 2's memory attention: a frame attends to itself and to the memories (arXiv 2408.00714).

N objects, h x w the stride-16 grid, T remembered frames, D hidden_dim, K tokens of frames and
pointers; a frame has h * w, or fewer if a perceiver compressed it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import MemoryAttentionConfig, TokenGrid
from tempomask.models.pooled_memory_attention import linear_attention, pooled_tokens
from tempomask.ops.attention import attention
from tempomask.ops.rope import axial_table, rotate


class TokenChoice(NamedTuple):
    """Which tokens of a frame attend to the memories, of N objects; the others take their results.

    tokens (N, k) long: those that attend. source (N, hw) long: the place among these of the one
    whose result each token takes, its own if it attends.
    """

    tokens: Tensor
    source: Tensor


class MemoryTokens(NamedTuple):
    """What a frame attends to: spatial memories frame by frame, then object pointers.

    values (N, K, memory_dim); positions, broadcastable to values, added for the keys only;
    num_spatial: how many leading tokens are spatial, grid: where those of a frame lie;
    image_keys (1 or N, num_spatial, D) or None.
    absent, chosen: see `MemoryInputs`.
    """

    values: Tensor
    positions: Tensor
    num_spatial: int
    grid: TokenGrid
    image_keys: Tensor | None
    absent: Tensor | None = None
    chosen: TokenChoice | None = None


def take_rows(x: Tensor, index: Tensor) -> Tensor:
    """The rows of x (1 or N, A, D) at index (N, B), of each its own: (N, B, D)."""
    first = torch.arange(len(x), device=x.device)[:, None] * x.shape[1]
    return F.embedding(index + first, x.flatten(0, 1))


def without_absent(bias: Tensor | None, memory: MemoryTokens, keys: Tensor) -> Tensor | None:
    """What joins the logits of keys (N, K', .), -inf for those of memories that are not there."""
    if memory.absent is None:
        return bias
    frames = memory.num_spatial // memory.grid.tokens
    pointers = memory.values.shape[1] - memory.num_spatial
    # A frame is many keys, fewer where they are pooled, and a pointer is several.
    places = (keys.shape[1] - pointers) // frames
    parts = pointers // max(1, memory.absent.shape[1] - frames)
    tokens = [
        memory.absent[:, :frames].repeat_interleave(places, dim=1),
        memory.absent[:, frames:].repeat_interleave(parts, dim=1),
    ]
    bias = keys.new_zeros(1, keys.shape[1]) if bias is None else bias
    return bias.masked_fill(torch.cat(tokens, dim=1), -torch.inf)


class RotaryAttention(nn.Module):
    """Single-head attention whose queries and spatial keys are rotated by their grid position."""

    def __init__(self, dim: int, key_dim: int, theta: float, image_keys: bool = False) -> None:
        super().__init__()
        self.theta = theta
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(key_dim, dim)
        self.value = nn.Linear(key_dim, dim)
        self.output = nn.Linear(dim, dim)
        self.image_norm = nn.LayerNorm(dim) if image_keys else None
        self.image_key = nn.Linear(dim, dim, bias=False) if image_keys else None

    def rotate(self, x: Tensor, grid: tuple[int, int], unplaced: int = 0) -> Tensor:
        return rotate(x, axial_table(*grid, x.shape[-1], self.theta, x.device, unplaced))

    def attend_self(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        """Let x (N, hw, D) attend to itself."""
        query, key = self.rotate(self.query(x), grid), self.rotate(self.key(x), grid)
        return self.output(attention(query, key, self.value(x)))

    def attend_memory(
        self,
        x: Tensor,
        memory: MemoryTokens,
        grid: tuple[int, int],
        config: MemoryAttentionConfig,
    ) -> Tensor:
        """Let x (1 or N, hw, D) attend to the memory tokens: (N, hw, D).

        A single memory frame is not pooled, as in the official code.
        """
        query = self.rotate(self.query(x), grid).expand(memory.values.shape[0], -1, -1)
        if memory.chosen is not None:
            query = take_rows(query, memory.chosen.tokens)
        key = self.key(memory.values + memory.positions)
        spatial, pointers = key.tensor_split([memory.num_spatial], dim=1)
        if self.image_key is not None and self.image_norm is not None:
            assert memory.image_keys is not None, "the network's memory keys see the image"
            spatial = spatial + self.image_key(self.image_norm(memory.image_keys))
        height, width, unplaced = memory.grid
        key = torch.cat([self.rotate(spatial, (height, width), unplaced), pointers], dim=1)
        value, bias = self.value(memory.values), None
        if config.pooling != "none" and memory.num_spatial > memory.grid.tokens:
            key, value, bias = pooled_tokens(key, value, memory.num_spatial, grid, config)
        bias = without_absent(bias, memory, key)
        attend = linear_attention if config.linear else attention
        attended = self.output(attend(query, key, value, bias))
        return attended if memory.chosen is None else take_rows(attended, memory.chosen.source)


class MemoryAttentionLayer(nn.Module):
    """Pre-norm self-attention, memory cross-attention and feed-forward, all residual."""

    def __init__(self, config: MemoryAttentionConfig, dim: int, memory_dim: int) -> None:
        super().__init__()
        self.config = config
        self.self_attention = RotaryAttention(dim, dim, config.rope_theta)
        self.cross_attention = RotaryAttention(
            dim, memory_dim, config.rope_theta, config.image_keys
        )
        self.expand = nn.Linear(dim, config.feedforward_dim)
        self.contract = nn.Linear(config.feedforward_dim, dim)
        self.self_norm = nn.LayerNorm(dim)
        self.cross_norm = nn.LayerNorm(dim)
        self.feedforward_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, memory: MemoryTokens, grid: tuple[int, int]) -> Tensor:
        """From x (1 or N, hw, D) to (N, hw, D); one x is for all until memories are seen."""
        x = x + self.self_attention.attend_self(self.self_norm(x), grid)
        attended = self.cross_attention.attend_memory(self.cross_norm(x), memory, grid, self.config)
        x = x + attended
        return x + self.contract(F.relu(self.expand(self.feedforward_norm(x))))


class MemoryAttention(nn.Module):
    """A stack of memory attention layers on one frame's stride-16 feature."""

    # The share of the position encoding that is added to the input (official constant).
    POSITION_WEIGHT = 0.1

    def __init__(self, config: MemoryAttentionConfig, dim: int, memory_dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            MemoryAttentionLayer(config, dim, memory_dim) for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(dim)

    def forward(self, features: Tensor, position: Tensor, memory: MemoryTokens) -> Tensor:
        """Condition features (B or N, D, h, w) at positions (D, h, w): (N, D, h, w)."""
        grid = (features.shape[2], features.shape[3])
        x = (features + self.POSITION_WEIGHT * position).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x, memory, grid)
        return self.norm(x).transpose(1, 2).unflatten(2, grid)
