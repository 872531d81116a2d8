"""Image values to network input: ImageNet mean and standard deviation, as SAM 2 uses."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(frames: Tensor) -> Tensor:
    """Normalise frames (B, H, W, 3), uint8 RGB: (B, 3, H, W) float32."""
    mean, std = _moments(frames.shape[2], frames.device)
    # Row by row: three values at a time take ten times as long.
    rows = (frames.flatten(2).float() - mean).div_(std)
    return rows.view(frames.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _moments(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values up to 255 of a row, each (3 width,); made once."""
    # Also of use in training, if first made in inference mode.
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device) * 255
        return mean.repeat(width), (torch.tensor(IMAGENET_STD, device=device) * 255).repeat(width)
