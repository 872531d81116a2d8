"""Hiera or EfficientTAM's ViT for inference: positions ready, channels last, strips."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tempomask.engine.strips import StripBlock
from tempomask.models.encoder import Encoder, EncoderOutput, Policy
from tempomask.models.hiera import Hiera
from tempomask.models.vit import ViT
from tempomask.models.windowed_block import WindowedBlock


class FastTrunk(Encoder):
    """The same function as the plain encoder it is made of.

    image_size: side of the usual images, whose positions are always at hand; those of others are
    made when the size first comes, and kept until another one does.
    dtype: of weights and activations throughout; bfloat16 also halves what the residual stream
    moves. Norms and softmax compute in float32 inside, whatever the type.
    """

    position: Tensor

    def __init__(self, plain: Hiera | ViT, image_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.strides, self.channels = plain.strides, plain.channels
        self.patch_channels, self.patch_stride = plain.patch_channels, plain.patch_stride
        self.required_blocks, self.feature_blocks = plain.required_blocks, plain.feature_blocks
        self.dtype = dtype
        self.patch_embedding = plain.patch_embedding
        weight = self.patch_embedding.weight.data
        self.patch_embedding.weight.data = weight.contiguous(memory_format=torch.channels_last)
        self.blocks = nn.ModuleList(_fast(block, dtype) for block in plain.blocks)
        self.to(dtype)
        # The plain encoder's positions alone, added last: positions are made in float32.
        self.positions = copy.copy(plain)
        self.positions._modules = {}
        side = image_size // plain.patch_stride
        self.register_buffer("position", self._made(side, side))
        self._other: tuple[object, Tensor] = None, self.position

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """image (B, 3, H, W), normalised, sides as of the plain encoder. See `EncoderOutput`."""
        image = image.to(self.dtype).contiguous(memory_format=torch.channels_last)
        x = self.patch_embedding(image).permute(0, 2, 3, 1)
        # In place: x is fresh, and another of its size would cost more than the sum.
        x = x.add_(self._position(x.shape[1], x.shape[2]))
        emitted, blocks = self.run_blocks(x, policy, previous_masks)
        return EncoderOutput([x.permute(0, 3, 1, 2) for x in emitted], blocks)

    def _position(self, height: int, width: int) -> Tensor:
        """(height, width, C) for a grid of patches."""
        if self.position.shape[:2] == (height, width):
            return self.position
        key, (known, position) = (height, width, self.position.device), self._other
        if known != key:
            position = self._made(height, width)
            self._other = key, position
        return position

    @torch.no_grad()
    def _made(self, height: int, width: int) -> Tensor:
        return self.positions.position_encoding(height, width).to(self.dtype).contiguous()


def _fast(block: nn.Module, dtype: torch.dtype) -> nn.Module:
    return StripBlock(block, dtype) if isinstance(block, WindowedBlock) else block
