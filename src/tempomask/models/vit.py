"""EfficientTAM's image encoder: a plain vision transformer with windowed and global blocks.

Architecture: arXiv 2411.18933, section 3, and ViTDet (arXiv 2203.16527).
B batch, S image side, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import ViTConfig
from tempomask.models.encoder import Encoder, EncoderOutput, Policy
from tempomask.models.windowed_block import WindowedBlock


class ViT(Encoder):
    """One resolution throughout, so that every block can be skipped; no norm at the end."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.strides = (config.patch_size,)
        self.channels = (config.dim,)
        self.patch_channels, self.patch_stride = config.dim, config.patch_size
        self.required_blocks = frozenset()
        self.feature_blocks = (config.depth - 1,)
        self.patch_embedding = nn.Conv2d(3, config.dim, config.patch_size, stride=config.patch_size)
        self.position = nn.Parameter(
            torch.zeros(config.dim, config.position_size, config.position_size)
        )
        self.blocks = nn.ModuleList(
            WindowedBlock(
                config.dim,
                config.dim,
                config.num_heads,
                0 if index in config.global_attention_blocks else config.window_size,
            )
            for index in range(config.depth)
        )

    def position_encoding(self, height: int, width: int) -> Tensor:
        """(height, width, C), from the grid the network was first trained with."""
        position = self.position
        if position.shape[1:] != (height, width):
            position = F.interpolate(position[None], size=(height, width), mode="bicubic")[0]
        return position.permute(1, 2, 0)

    def forward(
        self,
        image: Tensor,
        policy: Policy | None = None,
        previous_masks: Tensor | None = None,
    ) -> EncoderOutput:
        """Encode an image (B, 3, S, S), S a multiple of the patch size. See `EncoderOutput`."""
        x = self.patch_embedding(image).permute(0, 2, 3, 1)
        x = x + self.position_encoding(x.shape[1], x.shape[2])
        emitted, blocks = self.run_blocks(x, policy, previous_masks)
        return EncoderOutput([x.permute(0, 3, 1, 2) for x in emitted], blocks)
