"""XMem (arXiv 2207.07115): values from R18, decoded with the sensory memory of each object."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.instances.resnet import ResNet
from tempomask.models.matching.blocks import (
    ImageFeatures,
    KeyProjection,
    MaskDecoder,
    MaskEncoder,
    MatchingNetwork,
    Remembered,
    ResBlock,
    aggregate,
    upsampled,
)
from tempomask.models.matching.config import MatchingConfig

# Of the hidden layer of channel attention, and of its spatial kernel (CBAM, arXiv 1807.06521).
REDUCTION, SPATIAL_KERNEL = 16, 7


class BlockAttention(nn.Module):
    """CBAM: channels weighed by a perceptron of mean and maximum, then places."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.squeeze = nn.Linear(dim, dim // REDUCTION)
        self.excite = nn.Linear(dim // REDUCTION, dim)
        self.spatial = nn.Conv2d(2, 1, SPATIAL_KERNEL, padding=SPATIAL_KERNEL // 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3)), x.amax((2, 3))
        weights = [self.excite(F.relu(self.squeeze(part))) for part in pooled]
        x = x * (weights[0] + weights[1]).sigmoid()[:, :, None, None]
        places = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
        return x * self.spatial(places).sigmoid()


class Fusion(nn.Module):
    """Image (1, C, h, w) and objects (N, G, h, w) to (N, output, h, w)."""

    def __init__(self, image_dim: int, object_dim: int, output: int) -> None:
        super().__init__()
        self.block1 = ResBlock(image_dim + object_dim, output, 3)
        self.attention = BlockAttention(output)
        self.block2 = ResBlock(output, output, 3)

    def forward(self, image: Tensor, objects: Tensor) -> Tensor:
        x = self.block1(torch.cat([image.expand(len(objects), -1, -1, -1), objects], dim=1))
        return self.block2(x + self.attention(x))


class XMem(MatchingNetwork):
    """XMem's network."""

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.encoder.channels
        value, sensory = config.value_dim, config.sensory_dim
        self.config = config
        self.encoder = ResNet(config.encoder)
        self.keys = KeyProjection(coarse, config.key_dim)
        mask_dim = config.mask_encoder.channels[-1]
        fuser = Fusion(coarse, mask_dim, value)
        self.mask_encoder = MaskEncoder(config.mask_encoder, fuser, value, sensory)
        self.fuser = Fusion(coarse, value + sensory, config.up_dims[0])
        self.decoder = MaskDecoder((middle, fine), config.up_dims, 256, sensory, 3)

    def encode(self, image: Tensor) -> ImageFeatures:
        fine, middle, coarse = self.encoder(image)
        return ImageFeatures(image, (coarse, middle, fine), coarse, *self.keys(coarse))

    def remember(self, features: ImageFeatures, masks: Tensor, sensory: Tensor) -> Remembered:
        values, sensory = self.mask_encoder(features.image, features.pixel, masks, sensory)
        return Remembered(values.flatten(2).permute(2, 0, 1).float(), sensory, None)

    def read(
        self,
        features: ImageFeatures,
        values: Tensor,
        sensory: Tensor,
        masks: Tensor,
        summaries: Tensor | None,
    ) -> Tensor:
        return self.fuser(features.pixel, torch.cat([values, sensory], dim=1))

    def decode(
        self, features: ImageFeatures, readout: Tensor, sensory: Tensor, update: bool
    ) -> tuple[Tensor, Tensor]:
        logits, sensory = self.decoder(readout, features.maps, sensory, update)
        return aggregate(upsampled(logits)[:, 0].float().sigmoid()), sensory
