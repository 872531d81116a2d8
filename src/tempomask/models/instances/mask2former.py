"""Mask2Former (arXiv 2112.01527): backbone, pixel decoder, query decoder."""

from __future__ import annotations

from torch import Tensor, nn

from tempomask.models.hybrid import ConvolutionalStem
from tempomask.models.instances.config import (
    BackboneConfig,
    InstanceConfig,
    ResNetConfig,
    StemConfig,
    SwinConfig,
    ViTAdapterConfig,
)
from tempomask.models.instances.pixel_decoder import PixelDecoder, PixelFeatures
from tempomask.models.instances.query_decoder import Decoded, QueryDecoder, QueryRouter
from tempomask.models.instances.resnet import ResNet
from tempomask.models.instances.swin import Swin
from tempomask.models.instances.vit_adapter import ViTAdapter


class Stem(ConvolutionalStem):
    """nano's stem, of whose last stage only the first blocks are kept."""

    def __init__(self, config: StemConfig) -> None:
        super().__init__()
        self.stages[-1] = self.stages[-1][: config.last_blocks]  # type: ignore[index]


def build_backbone(config: BackboneConfig) -> ResNet | Swin | Stem | ViTAdapter:
    """A network from (B, 3, H, W) to maps of strides 4, 8, 16, 32; `channels` are their widths."""
    match config:
        case ResNetConfig():
            return ResNet(config)
        case SwinConfig():
            return Swin(config)
        case ViTAdapterConfig():
            return ViTAdapter(config)
        case StemConfig():
            return Stem(config)


class Mask2Former(nn.Module):
    """Finds, classifies and segments the instances of single images."""

    def __init__(self, config: InstanceConfig) -> None:
        super().__init__()
        self.backbone = build_backbone(config.backbone)
        self.pixel_decoder = PixelDecoder(
            self.backbone.channels, config.hidden_dim, config.pixel_decoder
        )
        self.query_decoder = QueryDecoder(
            config.hidden_dim, config.num_classes, config.query_decoder
        )

    def encode(self, image: Tensor) -> PixelFeatures:
        """Encode an image (B, 3, H, W), normalised, H and W multiples of 32."""
        return self.pixel_decoder(self.backbone(image))

    def decode(
        self,
        features: PixelFeatures,
        router: QueryRouter | None = None,
        previous: Tensor | None = None,
    ) -> Decoded:
        """As `QueryDecoder.forward`."""
        return self.query_decoder(features, router, previous)
