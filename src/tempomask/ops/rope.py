"""Axial rotary position encoding of SAM 2: adjacent channel pairs, first half by x, second by y."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F


@lru_cache(maxsize=32)
def axial_table(
    height: int, width: int, dim: int, theta: float, device: torch.device, unplaced: int = 0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the rotation angles, each (unplaced + height * width, dim / 2), float32.

    Pair i < dim/4 turns by x * theta^(-4i/dim), the other half by y likewise; tokens are row-major.
    Before them stand tokens without a place, which do not turn.
    """
    # Cached tables must stay usable in training even if first made under inference mode.
    with torch.inference_mode(False):
        frequencies = axial_frequencies(dim, theta).to(device)
        cosine, sine = rotation_table(height, width, frequencies)
        before = (0, 0, unplaced, 0)
        return F.pad(cosine, before, value=1.0), F.pad(sine, before)


def axial_frequencies(dim: int, theta: float) -> Tensor:
    """(2, dim / 2): how fast each pair of channels turns along x and along y."""
    frequency = theta ** (-torch.arange(0, dim, 4)[: dim // 4].float() / dim)
    still = torch.zeros_like(frequency)
    return torch.stack([torch.cat([frequency, still]), torch.cat([still, frequency])])


def rotation_table(height: int, width: int, frequencies: Tensor) -> tuple[Tensor, Tensor]:
    """As `axial_table`, from frequencies (..., 2, pairs): (..., height * width, pairs) each."""
    token = torch.arange(height * width, device=frequencies.device)
    x, y = (token % width).float()[:, None], (token // width).float()[:, None]
    # Not a matrix product, which autocast would compute in low precision.
    angle = x * frequencies[..., :1, :] + y * frequencies[..., 1:, :]
    return angle.cos(), angle.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate x (..., tokens, dim) by the table; tokens may be a whole number of repeats of it.

    The table is one for all of x, or one for each of its heads. The arithmetic is float32, whatever
    the type of x, as in the official code.
    """
    cos, sin = table
    repeats = x.shape[-2] // cos.shape[-2]
    if repeats > 1:
        cos, sin = cos.repeat(repeats, 1), sin.repeat(repeats, 1)
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    return turned.flatten(-2).to(x.dtype)
