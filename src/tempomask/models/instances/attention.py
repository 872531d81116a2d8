"""Multi-head attention with one input projection for query, key and value, and post-norm blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.ops.attention import multi_head_attention


class MultiheadAttention(nn.Module):
    """Attention of query (B, A, C) over key and value (B, N, C), through the fused kernels."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.input_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.input_bias = nn.Parameter(torch.zeros(3 * dim))
        self.output = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.input_weight)
        nn.init.xavier_uniform_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """mask: additive, (B, 1, A, N), or None. Returns (B, A, C)."""
        weights, biases = self.input_weight.chunk(3), self.input_bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        mask = None if mask is None else mask.to(q.dtype)
        # (B, heads, A, C / heads) to (B, A, C)
        return self.output(multi_head_attention(q, k, v, mask).transpose(1, 2).flatten(2))


class SelfAttention(nn.Module):
    """Residual self-attention with a norm after it; positions are added to query and key."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention = MultiheadAttention(dim, num_heads)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, position: Tensor | None = None) -> Tensor:
        placed = x if position is None else x + position
        return self.norm(x + self.attention(placed, placed, x))


class FeedForward(nn.Module):
    """Residual two-layer perceptron with a norm after it."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.expand = nn.Linear(dim, hidden)
        self.contract = nn.Linear(hidden, dim)
        self.norm = nn.LayerNorm(dim)
        for layer in (self.expand, self.contract):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.contract(F.relu(self.expand(x))))
