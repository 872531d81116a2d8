"""EfficientTAM's efficient memory cross-attention: pooled keys and values (Eq. 5 and Eq. 6).

A pooled key stands for the keys of its window, four of 2x2. In the softmax it must count as often,
which is the logarithm of their number added to its logit (Eq. 5). Eq. 6 adds it to every channel of
the pooled key instead, so its logit moves by as much times the scaled sum of the query: not the
same function, but what the released `_2` checkpoints were trained with (arXiv 2411.18933).

What the paper compares with (section 5.3) stands here too: other windows, pooling of all tokens,
and linear attention.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.models.config import MemoryAttentionConfig

# Keeps a query that no key answers from dividing by zero.
LEAST = 1e-6


def pool_grid(x: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Average windows within each frame: (N, T * h * w, D) to (N, T * h * w / window^2, D)."""
    maps = x.reshape(-1, *grid, x.shape[2]).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(maps, window)
    return pooled.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[2])


def pool_row(x: Tensor, count: int) -> Tensor:
    """Average every `count` tokens of (N, P, D) that follow each other, and those that are left."""
    if not x.shape[1]:
        return x
    return F.avg_pool1d(x.mT, count, ceil_mode=True).mT


def pooled_tokens(
    key: Tensor,
    value: Tensor,
    num_spatial: int,
    grid: tuple[int, int],
    config: MemoryAttentionConfig,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Keys and values with pooled spatial memories, and what joins the logits of each key.

    key, value (N, K, D) of which the first num_spatial tokens are whole frames of the grid (rotated
    keys) and the rest pointers. Returns (N, K', D) twice, and (K',) or None.
    """
    window = config.window
    logarithm = math.log(window * window)

    def pooled(x: Tensor, shift: float = 0.0) -> Tensor:
        spatial = pool_grid(x[:, :num_spatial], grid, window) + shift
        pointers = x[:, num_spatial:]
        if config.pooling == "all":
            pointers = pool_row(pointers, window * window)
        return torch.cat([spatial, pointers], dim=1)

    values = pooled(value)
    if config.pooling == "eq6":
        return pooled(key, logarithm), values, None
    keys = pooled(key)
    if config.pooling == "all":
        return keys, values, None
    bias = key.new_zeros(keys.shape[1])
    bias[: num_spatial // window**2] = logarithm
    return keys, values, bias


def linear_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """ReLU linear attention (EfficientViT, arXiv 2205.14756, Eq. 2) in place of a softmax.

    Arguments as in `ops.attention.attention`; a bias counts a key as often as its exponential says.
    """
    query, key = query.relu(), key.relu()
    if bias is not None:
        key = key * bias.exp()[..., None]
    attended = query @ (key.mT @ value)
    return attended / ((query @ key.sum(dim=1)[..., None]) + LEAST)
