"""EfficientTAM's efficient memory cross-attention: keys and values pooled 2x2 (Eq. 5 and Eq. 6).

A pooled key stands for the four keys of its window. In the softmax it must count four times, which
is ln 4 added to its logit (Eq. 5). Eq. 6 adds ln 4 to every channel of the pooled key instead, so
its logit moves by ln 4 times the scaled sum of the query: not the same function, but what the
released `_2` checkpoints were trained with (arXiv 2411.18933).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.models.config import Pooling
from tempomask.ops.attention import attention

WINDOW = 2
LOG_WINDOW_AREA = math.log(WINDOW * WINDOW)


def pool_grid(x: Tensor, grid: tuple[int, int]) -> Tensor:
    """Average windows within each frame: (N, T * h * w, D) to (N, T * h/2 * w/2, D)."""
    maps = x.reshape(-1, *grid, x.shape[2]).permute(0, 3, 1, 2)
    pooled = F.avg_pool2d(maps, WINDOW)
    return pooled.permute(0, 2, 3, 1).reshape(x.shape[0], -1, x.shape[2])


def pooled_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    num_spatial: int,
    grid: tuple[int, int],
    pooling: Pooling,
) -> Tensor:
    """Single-head attention over pooled spatial memories and untouched object pointers.

    query (N, A, D); key, value (N, K, D) of which the first num_spatial tokens are whole frames of
    the grid (rotated keys) and the rest pointers. A single memory frame is not pooled, as in the
    official code. Returns (N, A, D).
    """
    if num_spatial <= grid[0] * grid[1]:
        return attention(query, key, value)
    spatial_key = pool_grid(key[:, :num_spatial], grid)
    pooled_value = torch.cat(
        [pool_grid(value[:, :num_spatial], grid), value[:, num_spatial:]], dim=1
    )
    bias = None
    if pooling == "eq6":
        spatial_key = spatial_key + LOG_WINDOW_AREA
    else:
        bias = query.new_zeros(spatial_key.shape[1] + key.shape[1] - num_spatial)
        bias[..., : spatial_key.shape[1]] = LOG_WINDOW_AREA
    pooled_key = torch.cat([spatial_key, key[:, num_spatial:]], dim=1)
    return attention(query, pooled_key, pooled_value, bias)
