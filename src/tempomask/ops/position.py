"""Sine position encodings of SAM 2: on the image grid and along time."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=32)
def grid_sine(height: int, width: int, channels: int, device: torch.device) -> Tensor:
    """Position encoding (channels, height, width), float32: y half, then x half.

    Coordinates 1..n scaled to 2 pi; temperature 10,000; sine and cosine interleaved.
    """
    with torch.inference_mode(False):
        half = channels // 2

        def encode(length: int) -> Tensor:
            position = torch.arange(1, length + 1, device=device).float()
            position = position / (length + 1e-6) * (2 * math.pi)
            step = torch.arange(half, device=device)
            scaled = position[:, None] / 10000.0 ** (2 * (step // 2).float() / half)
            return torch.stack([scaled[:, 0::2].sin(), scaled[:, 1::2].cos()], dim=2).flatten(1)

        y = encode(height)[:, None].expand(height, width, half)
        x = encode(width)[None].expand(height, width, half)
        return torch.cat([y, x], dim=2).permute(2, 0, 1).contiguous()


def time_sine(position: Tensor, channels: int) -> Tensor:
    """Encoding (..., channels) of scalar positions (...): all sines, then all cosines."""
    half = channels // 2
    step = torch.arange(half, device=position.device)
    scaled = position.float()[..., None] / 10000.0 ** (2 * (step // 2).float() / half)
    return torch.cat([scaled.sin(), scaled.cos()], dim=-1)
