"""What XMem and Cutie have in common: keys, sensory memory, decoder, encoder of masks.

N objects, H x W the padded image, h x w = H / 16 x W / 16; what the image alone says has batch 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.config import ResNetConfig
from tempomask.models.instances.resnet import ResNet
from tempomask.models.matching.config import MatchingConfig


class ImageFeatures(NamedTuple):
    """What the image alone says.

    image (1, 3, H, W), normalised; maps: strides 16, 8, 4; pixel (1, C, h, w): what objects are
    fused with. key (hw, K), shrinkage (hw, 1) and selection (hw, K) of its pixels, float32.
    """

    image: Tensor
    maps: tuple[Tensor, Tensor, Tensor]
    pixel: Tensor
    key: Tensor
    shrinkage: Tensor
    selection: Tensor


class Remembered(NamedTuple):
    """Of N objects: values (hw, N, V), sensory (N, S, h, w), summaries (N, Q, C + 1) or None."""

    values: Tensor
    sensory: Tensor
    summaries: Tensor | None


class KeyProjection(nn.Module):
    """Keys, their shrinkage (how far they reach, from 1) and selection (which channels count).

    XMem, section 3.2; `narrow` is a 1x1 convolution before, which Cutie has.
    """

    def __init__(self, channels: int, key_dim: int, narrow: int | None = None) -> None:
        super().__init__()
        self.narrow = nn.Identity() if narrow is None else nn.Conv2d(channels, narrow, 1)
        inner = narrow or channels
        self.key = nn.Conv2d(inner, key_dim, 3, padding=1)
        self.shrinkage = nn.Conv2d(inner, 1, 3, padding=1)
        self.selection = nn.Conv2d(inner, key_dim, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(1, C, h, w) to (hw, K), (hw, 1), (hw, K)."""
        x = self.narrow(x)
        found = self.key(x), self.shrinkage(x).square() + 1, self.selection(x).sigmoid()
        key, shrinkage, selection = (part[0].flatten(1).T.float() for part in found)
        return key, shrinkage, selection


class ResBlock(nn.Module):
    """Two 3x3 convolutions after ReLUs, and a shortcut, projected where the width changes."""

    def __init__(self, channels: int, output: int, shortcut_kernel: int) -> None:
        super().__init__()
        self.shortcut: nn.Module = nn.Identity()
        if channels != output:
            padding = shortcut_kernel // 2
            self.shortcut = nn.Conv2d(channels, output, shortcut_kernel, padding=padding)
        self.conv1 = nn.Conv2d(channels, output, 3, padding=1)
        self.conv2 = nn.Conv2d(output, output, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.conv1(F.relu(x)))) + self.shortcut(x)


class Upsample(nn.Module):
    """Twice the resolution: the image's map is added, then a residual block."""

    def __init__(self, skip_dim: int, channels: int, output: int, kernel: int) -> None:
        super().__init__()
        self.skip = nn.Conv2d(skip_dim, channels, kernel, padding=kernel // 2)
        self.block = ResBlock(channels, output, kernel)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
        return self.block(x + self.skip(skip))


class SensoryUpdate(nn.Module):
    """The gated recurrent update of an object's sensory memory (XMem, equation 10)."""

    def __init__(self, channels: int, sensory_dim: int) -> None:
        super().__init__()
        self.transform = nn.Conv2d(channels + sensory_dim, 3 * sensory_dim, 3, padding=1)
        nn.init.xavier_normal_(self.transform.weight)

    def forward(self, x: Tensor, sensory: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            gates = self.transform(torch.cat([x.float(), sensory.float()], dim=1))
            forget, update, new = gates.chunk(3, dim=1)
            update = update.sigmoid()
            return forget.sigmoid() * sensory * (1 - update) + update * new.tanh()


class MaskDecoder(nn.Module):
    """Readout (N, C, h, w) and the image's maps to logits (N, 1, H / 4, W / 4) and new sensory.

    Args:
        skip_dims: Channels of the image's maps at strides 8 and 4.
        dims: Its own at strides 16, 8 and 4.
        inner: Of the sensory update.
        sensory_dim: Of sensory memory.
        kernel: Of projections: 3 in XMem, 1 in Cutie.
    """

    def __init__(
        self,
        skip_dims: Sequence[int],
        dims: Sequence[int],
        inner: int,
        sensory_dim: int,
        kernel: int,
    ) -> None:
        super().__init__()
        self.up_8 = Upsample(skip_dims[0], dims[0], dims[1], kernel)
        self.up_4 = Upsample(skip_dims[1], dims[1], dims[2], kernel)
        self.predict = nn.Conv2d(dims[2], 1, 3, padding=1)
        widths = (dims[0], dims[1], dims[2] + 1)
        self.to_sensory = nn.ModuleList(nn.Conv2d(width, inner, 1) for width in widths)
        self.sensory = SensoryUpdate(inner, sensory_dim)

    def forward(
        self, readout: Tensor, maps: tuple[Tensor, Tensor, Tensor], sensory: Tensor, update: bool
    ) -> tuple[Tensor, Tensor]:
        x8 = self.up_8(readout, maps[1])
        x4 = self.up_4(x8, maps[2])
        with torch.autocast(x4.device.type, enabled=False):
            logits = self.predict(F.relu(x4.float()))
        if not update:
            return logits, sensory
        scales = readout, F.avg_pool2d(x8, 2), F.avg_pool2d(torch.cat([x4, logits], 1), 4)
        parts = [to(x) for to, x in zip(self.to_sensory, scales, strict=True)]
        return logits, self.sensory(sum(parts[1:], parts[0]), sensory)


class MaskEncoder(nn.Module):
    """Image and masks to values, and the deep update of sensory memory.

    Args:
        config: Of the residual network.
        fuser: Joins its map with what the image says: (pixel, map) to (N, V, h, w).
        value_dim: V.
        sensory_dim: Of sensory memory.
    """

    def __init__(
        self, config: ResNetConfig, fuser: nn.Module, value_dim: int, sensory_dim: int
    ) -> None:
        super().__init__()
        self.encoder = ResNet(config)
        self.fuser = fuser
        self.sensory = SensoryUpdate(value_dim, sensory_dim)

    def forward(
        self, image: Tensor, pixel: Tensor, masks: Tensor, sensory: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Masks are (N, H, W) in [0, 1]. Returns values (N, V, h, w) and sensory memory."""
        images = image.expand(len(masks), -1, -1, -1)
        x = torch.cat([images, masks[:, None], others(masks)[:, None]], dim=1)
        values = self.fuser(pixel, self.encoder(x)[-1])
        return values, self.sensory(values, sensory)


class MatchingNetwork(nn.Module):
    """What a session needs of a network; it holds nothing of a video.

    Attributes:
        pads_black: The border that brings an image to multiples of 16 is black, not mean grey.
        long_term: Old memories are consolidated unless a session is told otherwise.
        always_updates: Sensory memory also follows the decoder on frames that are remembered.
        config: Of the network.
    """

    pads_black: bool = False
    long_term: bool = True
    always_updates: bool = False
    config: MatchingConfig

    @property
    def name(self) -> str:
        """Of its configuration."""
        return self.config.name

    def encode(self, image: Tensor) -> ImageFeatures:
        """What an image (1, 3, H, W), normalised and padded, says."""
        raise TypeError(f"{type(self).__name__} must implement encode")

    def remember(self, features: ImageFeatures, masks: Tensor, sensory: Tensor) -> Remembered:
        """What to remember of N objects: masks (N, H, W) and sensory memory (N, S, h, w)."""
        raise TypeError(f"{type(self).__name__} must implement remember")

    def read(
        self,
        features: ImageFeatures,
        values: Tensor,
        sensory: Tensor,
        masks: Tensor,
        summaries: Tensor | None,
    ) -> Tensor:
        """What the decoder gets of N objects that came together.

        values (N, V, h, w) that matching found; masks (N, H, W) of the frame before.
        """
        raise TypeError(f"{type(self).__name__} must implement read")

    def decode(
        self, features: ImageFeatures, readout: Tensor, sensory: Tensor, update: bool
    ) -> tuple[Tensor, Tensor]:
        """Logits (N + 1, H, W), background first, and sensory memory, the same without update."""
        raise TypeError(f"{type(self).__name__} must implement decode")

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device


def others(masks: Tensor) -> Tensor:
    """Of each object the sum of all other masks; masks (N, ...)."""
    return (masks.sum(dim=0, keepdim=True) - masks).clamp(0, 1)


def aggregate(probabilities: Tensor) -> Tensor:
    """Probabilities (N, ...) of objects to logits (N + 1, ...) with the background (STM)."""
    background = (1 - probabilities).prod(dim=0, keepdim=True)
    joint = torch.cat([background, probabilities]).float().clamp(1e-7, 1 - 1e-7)
    return torch.log(joint / (1 - joint))


def upsampled(logits: Tensor) -> Tensor:
    """(N, C, h, w) to four times the resolution."""
    return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)
