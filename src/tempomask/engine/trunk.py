"""Hiera or EfficientTAM's ViT for inference at one size: positions ready, channels last, strips."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempomask.engine.strips import StripBlock
from tempomask.models.encoder import Encoder, EncoderOutput, Policy
from tempomask.models.hiera import Hiera
from tempomask.models.vit import ViT
from tempomask.models.windowed_block import WindowedBlock


class FastTrunk(Encoder):
    """The same function as the plain encoder it is made of, for pictures of one size.

    dtype: of weights and activations throughout; bfloat16 also halves what the residual stream
    moves. Norms and softmax compute in float32 inside, whatever the type.
    """

    position: Tensor

    def __init__(self, plain: Hiera | ViT, image_size: int, dtype: torch.dtype) -> None:
        super().__init__()
        for name in ("strides", "channels", "patch_channels", "patch_stride"):
            setattr(self, name, getattr(plain, name))
        self.required_blocks, self.feature_blocks = plain.required_blocks, plain.feature_blocks
        self.dtype = dtype
        self.patch_embedding = plain.patch_embedding
        weight = self.patch_embedding.weight.data
        self.patch_embedding.weight.data = weight.contiguous(memory_format=torch.channels_last)
        stride = plain.patch_embedding.stride[0]
        side = image_size // stride
        with torch.no_grad():
            position = plain.position_encoding(side, side).contiguous()
        self.register_buffer("position", position)
        self.blocks = nn.ModuleList(_fast(block, dtype) for block in plain.blocks)
        self.to(dtype)

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """image (B, 3, S, S), normalised, S as given at first. See `EncoderOutput`."""
        image = image.to(self.dtype).contiguous(memory_format=torch.channels_last)
        x = self.patch_embedding(image).permute(0, 2, 3, 1)
        # In place: x is fresh, and another of its size would cost more than the sum.
        emitted, blocks = self.run_blocks(x.add_(self.position), policy, previous_masks)
        return EncoderOutput([x.permute(0, 3, 1, 2) for x in emitted], blocks)


def _fast(block: nn.Module, dtype: torch.dtype) -> nn.Module:
    return StripBlock(block, dtype) if isinstance(block, WindowedBlock) else block
