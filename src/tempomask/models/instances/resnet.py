"""Residual networks (R50, R18) behind Mask2Former, Cutie and XMem, with frozen batch norms."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import ResNetConfig
from tempomask.ops.layers import ConvolutionNorm

# A bottleneck's inner width is its output's width over this.
BOTTLENECK = 4


class Bottleneck(nn.Module):
    """1x1 down, 3x3 (with the stride), 1x1 up, and a projected shortcut where the shape changes."""

    def __init__(self, channels: int, output: int, stride: int) -> None:
        super().__init__()
        inner = output // BOTTLENECK
        changes = stride != 1 or channels != output
        self.shortcut = ConvolutionNorm(channels, output, 1, stride) if changes else None
        self.conv1 = ConvolutionNorm(channels, inner, 1)
        self.conv2 = ConvolutionNorm(inner, inner, 3, stride)
        self.conv3 = ConvolutionNorm(inner, output, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv3(F.relu(self.conv2(F.relu(self.conv1(x)))))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class BasicBlock(nn.Module):
    """3x3 (with the stride), 3x3, and a projected shortcut where the shape changes."""

    def __init__(self, channels: int, output: int, stride: int) -> None:
        super().__init__()
        changes = stride != 1 or channels != output
        self.shortcut = ConvolutionNorm(channels, output, 1, stride) if changes else None
        self.conv1 = ConvolutionNorm(channels, output, 3, stride)
        self.conv2 = ConvolutionNorm(output, output, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv2(F.relu(self.conv1(x)))
        return F.relu(y + (x if self.shortcut is None else self.shortcut(x)))


class ResNet(nn.Module):
    """image (B, 3, H, W) to maps of strides 4, 8, 16, 32, as many as the configuration has."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.stem = ConvolutionNorm(config.inputs, config.stem_channels, 7, 2)
        block_type = BasicBlock if config.basic else Bottleneck
        stages, channels = [], config.stem_channels
        for index, (output, blocks) in enumerate(zip(config.channels, config.blocks, strict=True)):
            stage = []
            for block in range(blocks):
                stage.append(block_type(channels, output, 2 if index and not block else 1))
                channels = output
            stages.append(nn.Sequential(*stage))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        x = F.max_pool2d(F.relu(self.stem(image)), 3, 2, 1)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
