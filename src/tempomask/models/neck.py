"""Necks: encoder features to maps of one width (SAM 2's FPN, EfficientTAM's single-level neck)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.ops.layers import LayerNorm2d


class FeaturePyramidNeck(nn.Module):
    """Lateral 1x1 convolutions; with a stride-32 level, stride 16 receives it upsampled.

    Strides 4 and 8 stay lateral, and the stride-32 map is dropped after the sum, as in SAM 2.
    """

    def __init__(self, channels: tuple[int, ...], hidden_dim: int) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(c, hidden_dim, 1) for c in channels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: (B, C_i, H_i, W_i), finest first. Returns maps of strides 4, 8, 16."""
        maps = [lateral(x) for lateral, x in zip(self.laterals, features, strict=True)]
        if len(maps) == 4:
            coarse = maps.pop()
            # The official code upsamples in float32 so that low precision does not drift.
            maps[2] = maps[2] + F.interpolate(coarse.float(), scale_factor=2.0).to(coarse.dtype)
        return maps


class SingleLevelNeck(nn.Module):
    """EfficientTAM's neck on the stride-16 map: 1x1, layer norm, 3x3, layer norm; no biases."""

    def __init__(self, channels: int, hidden_dim: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, hidden_dim, 1, bias=False)
        self.project_norm = LayerNorm2d(hidden_dim)
        self.smooth = nn.Conv2d(hidden_dim, hidden_dim, 3, padding=1, bias=False)
        self.smooth_norm = LayerNorm2d(hidden_dim)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """features: one map (B, C, h, w). Returns one map (B, hidden_dim, h, w)."""
        x = self.project_norm(self.project(features[-1]))
        return [self.smooth_norm(self.smooth(x))]
