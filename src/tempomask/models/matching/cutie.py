"""Cutie (arXiv 2310.12982): matching as in XMem, and queries that sum up each object."""

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
    aggregate,
    others,
    upsampled,
)
from tempomask.models.matching.config import MatchingConfig
from tempomask.models.matching.object_transformer import (
    ChannelBlock,
    ObjectSummarizer,
    ObjectTransformer,
)


class Fusion(nn.Module):
    """Image (1, C, h, w) and objects (N, G, h, w), each projected, added: (N, output, h, w)."""

    def __init__(self, image_dim: int, object_dim: int, output: int) -> None:
        super().__init__()
        self.image = nn.Conv2d(image_dim, output, 1)
        self.objects = nn.Conv2d(object_dim, output, 1)
        self.block1, self.block2 = ChannelBlock(output), ChannelBlock(output)

    def forward(self, image: Tensor, objects: Tensor) -> Tensor:
        return self.block2(self.block1(self.image(image) + self.objects(objects)))


class Cutie(MatchingNetwork):
    """Cutie's network.

    `sensory_head` is read by the loss of its training alone.
    """

    pads_black = True
    long_term = False
    always_updates = True

    def __init__(self, config: MatchingConfig) -> None:
        super().__init__()
        fine, middle, coarse = config.encoder.channels
        dim, value, sensory = config.up_dims[0], config.value_dim, config.sensory_dim
        self.config = config
        self.encoder = ResNet(config.encoder)
        self.pixel = nn.Conv2d(coarse, dim, 1)
        self.keys = KeyProjection(coarse, config.key_dim, narrow=dim)
        fuser = Fusion(dim, config.mask_encoder.channels[-1], value)
        self.mask_encoder = MaskEncoder(config.mask_encoder, fuser, value, sensory)
        self.sensory_compress = nn.Conv2d(sensory + 2, value, 1)
        self.fuser = Fusion(dim, value, dim)
        self.object_transformer = ObjectTransformer(config)
        self.summarizer = ObjectSummarizer(config)
        self.decoder = MaskDecoder((middle, fine), config.up_dims, sensory, sensory, 1)
        self.sensory_head = nn.Conv2d(sensory, dim + 1, 1)

    def encode(self, image: Tensor) -> ImageFeatures:
        fine, middle, coarse = self.encoder(image)
        pixel = self.pixel(coarse)
        return ImageFeatures(image, (coarse, middle, fine), pixel, *self.keys(coarse))

    def remember(self, features: ImageFeatures, masks: Tensor, sensory: Tensor) -> Remembered:
        values, sensory = self.mask_encoder(features.image, features.pixel, masks, sensory)
        summaries = self.summarizer(F.avg_pool2d(masks, 16), values)
        return Remembered(values.flatten(2).permute(2, 0, 1).float(), sensory, summaries)

    def read(
        self,
        features: ImageFeatures,
        values: Tensor,
        sensory: Tensor,
        masks: Tensor,
        summaries: Tensor | None,
    ) -> Tensor:
        assert summaries is not None, "Cutie remembers them"
        small = F.avg_pool2d(masks, 16)
        seen = torch.cat([sensory, small[:, None], others(small)[:, None]], dim=1)
        fused = self.fuser(features.pixel, values + self.sensory_compress(seen))
        return self.object_transformer(fused, summaries)

    def decode(
        self, features: ImageFeatures, readout: Tensor, sensory: Tensor, update: bool
    ) -> tuple[Tensor, Tensor]:
        logits, sensory = self.decoder(readout, features.maps, sensory, update)
        return upsampled(aggregate(logits[:, 0].sigmoid())[None])[0], sensory
