"""What ImageNet knows and nano's short stem does not: its last stage as a teacher.

The transformer blocks have to do the work of the stage that they replace. On the first frames of
clips, nano's features, averaged to stride 32, have to tell what the full EfficientNet-Lite0 stem
says there.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.hybrid import ConvolutionalStem


class ImageTeacher(nn.Module):
    """The frozen stem, and a linear head from nano's features (C channels) to its last map."""

    def __init__(self, stem: ConvolutionalStem, dim: int) -> None:
        super().__init__()
        self.stem = stem.requires_grad_(False).eval()
        self.head = nn.Linear(dim, stem.channels[-1])

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Mean of 1 - cosine; features (B, C, h, w) of images (B, 3, S, S), S a multiple of 32."""
        with torch.no_grad():
            target = self.stem(images.contiguous(memory_format=torch.channels_last))[-1].float()
            target = F.layer_norm(target.permute(0, 2, 3, 1), target.shape[1:2])
        told = self.head(F.avg_pool2d(features, 2).permute(0, 2, 3, 1)).float()
        return 1 - F.cosine_similarity(told, target, dim=-1).mean()
