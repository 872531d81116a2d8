"""Image values to network input: ImageNet mean and standard deviation, as SAM 2 uses."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(frames: Tensor) -> Tensor:
    """Normalise frames (B, H, W, 3), uint8 RGB: (B, 3, H, W) float32."""
    mean, std = _moments(frames.device)
    return ((frames.float() - mean) / std).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _moments(device: torch.device) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of values up to 255, each (3,); once a device, not a frame."""
    # Also of use in training, if first made in inference mode.
    with torch.inference_mode(False):
        mean = torch.tensor(IMAGENET_MEAN, device=device) * 255
        return mean, torch.tensor(IMAGENET_STD, device=device) * 255
