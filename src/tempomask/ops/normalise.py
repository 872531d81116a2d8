"""Picture values to network input: ImageNet mean and standard deviation, as SAM 2 uses."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def normalise(frames: Tensor) -> Tensor:
    """frames (B, H, W, 3) uint8 RGB: (B, 3, H, W) float32, normalised."""
    mean = torch.tensor(IMAGENET_MEAN, device=frames.device) * 255
    std = torch.tensor(IMAGENET_STD, device=frames.device) * 255
    return ((frames.float() - mean) / std).permute(0, 3, 1, 2)
