"""Axial rotary position encoding of SAM 2: adjacent channel pairs, first half by x, second by y."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def axial_table(
    height: int, width: int, dim: int, theta: float, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotation angles, each (height * width, dim / 2), float32.

    Pair i < dim/4 turns by x * theta^(-4i/dim), the other half by y likewise; tokens are row-major.
    """
    # Cached tables must stay usable in training even if first made under inference mode.
    with torch.inference_mode(False):
        frequency = theta ** (-torch.arange(0, dim, 4, device=device)[: dim // 4].float() / dim)
        token = torch.arange(height * width, device=device)
        x, y = (token % width).float(), (token // width).float()
        angle = torch.cat([torch.outer(x, frequency), torch.outer(y, frequency)], dim=1)
        return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x (..., tokens, dim) by the table; tokens may be a whole number of repeats of it.

    The arithmetic is float32, whatever the type of x, as in the official code.
    """
    cos, sin = table
    repeats = x.shape[-2] // cos.shape[0]
    if repeats > 1:
        cos, sin = cos.repeat(repeats, 1), sin.repeat(repeats, 1)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
