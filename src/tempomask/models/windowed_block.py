"""The block of Hiera and of EfficientTAM's ViT: windowed or global attention, then an MLP.

In Hiera a block that begins a stage widens its tokens and halves the grid by max-pooling its
queries (arXiv 2306.00989, section 3).

B batch, h x w token grid, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.encoder import RoutedBlock
from tempomask.ops.attention import multi_head_attention
from tempomask.ops.windows import partition, unpartition

MLP_RATIO = 4


def max_pool(x: Tensor) -> Tensor:
    """2x2 max-pooling of (B, h, w, C), channels last; an odd last row or column is left out."""
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = torch.maximum(x[:, 0::2], x[:, 1::2])
    return torch.maximum(rows[:, :, 0::2], rows[:, :, 1::2])


class WindowedBlock(RoutedBlock):
    """Pre-norm block; window_size 0 means global attention.

    output_dim: width after the block; where it differs from dim, the shortcut is a projection of
    the normed input. pool: the block halves the grid. Windows that reach beyond the map hold zeros
    there, which take part in the attention, as in the official code.
    """

    def __init__(
        self,
        dim: int,
        output_dim: int,
        num_heads: int,
        window_size: int,
        pool: bool = False,
    ) -> None:
        super().__init__()
        attention_dim = num_heads * (output_dim // num_heads)
        mlp_dim = MLP_RATIO * output_dim
        self.num_heads, self.window_size, self.pool = num_heads, window_size, pool
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * attention_dim)
        self.output = nn.Linear(attention_dim, output_dim)
        self.shortcut = nn.Linear(dim, output_dim) if dim != output_dim else None
        self.mlp_norm = nn.LayerNorm(output_dim, eps=1e-6)
        self.expand = nn.Linear(output_dim, mlp_dim)
        self.contract = nn.Linear(mlp_dim, output_dim)

    def attend(self, x: Tensor) -> Tensor:
        """From x (B, h, w, dim) to (B, h', w', output_dim), h' = h / 2 where the block pools."""
        normed = self.attention_norm(x)
        shortcut = x if self.shortcut is None else self.shortcut(normed)
        if self.pool:
            shortcut = max_pool(shortcut)
        if self.window_size:
            attended = self._attend_within(partition(normed, self.window_size))
            attended = unpartition(attended, (shortcut.shape[1], shortcut.shape[2]))
        else:
            attended = self._attend_within(normed)
        return shortcut + self.output(attended)

    def _attend_within(self, windows: Tensor) -> Tensor:
        """Self-attention of each window (N, a, b, dim), before the output projection."""
        count, height, width, _ = windows.shape
        query, key, value = self.qkv(windows).chunk(3, dim=-1)
        if self.pool:
            query = max_pool(query)
            height, width = height // 2, width // 2
        query, key, value = (
            x.reshape(count, -1, self.num_heads, x.shape[-1] // self.num_heads).transpose(1, 2)
            for x in (query, key, value)
        )
        attended = multi_head_attention(query, key, value)
        return attended.transpose(1, 2).reshape(count, height, width, -1)

    def feed_forward(self, x: Tensor) -> Tensor:
        """From x (B, h, w, output_dim) to the same shape."""
        return x + self.contract(F.gelu(self.expand(self.mlp_norm(x))))
