"""Hiera or EfficientTAM's ViT for inference: positions ready, channels last, blocks in strips.

At stride 4 an image of 1024 pixels has 65,536 tokens: its queries, keys and values fill 40 MB,
the hidden layer of its MLP 50 MB, and all of it would go to memory and back between any two layers.
A block therefore runs strip by strip, so that what lies between its layers stays in the cache.
Windows do not see each other and the MLP sees one token at a time, so only the order changes.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tempomask.engine.packed import fast_linear, in_parts
from tempomask.engine.ragged_windows import attend_ragged, is_ragged
from tempomask.models.encoder import Encoder, EncoderOutput, Policy, RoutedBlock
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
        self.blocks = nn.ModuleList(
            StripBlock(block, dtype) if isinstance(block, WindowedBlock) else block
            for block in plain.blocks
        )
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
        """Encode an image (B, 3, H, W), normalised, sides as in the plain encoder."""
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


# Tokens in a strip. Fewer fit the cache better and multiply worse; measured best on two cores.
TOKENS = 8192


class StripBlock(RoutedBlock):
    """A `WindowedBlock`, the same function; the block's own layers are exchanged."""

    def __init__(self, block: WindowedBlock, dtype: torch.dtype) -> None:
        super().__init__()
        self.channels = block.contract.out_features
        self.expand = fast_linear(block.expand, dtype, "gelu")
        self.contract = fast_linear(block.contract, dtype)
        block.qkv = fast_linear(block.qkv, dtype)  # type: ignore[assignment]
        block.output = fast_linear(block.output, dtype)  # type: ignore[assignment]
        if block.shortcut is not None:
            block.shortcut = fast_linear(block.shortcut, dtype)  # type: ignore[assignment]
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Run x (B, h, w, dim) through both halves of the block on one strip, then on the next."""
        strips = self._strips(x)
        if len(strips) == 1:
            return self.feed_forward(self.attend(x))
        step = 2 if self.block.pool else 1
        batch, height, width, _ = x.shape
        out = x.new_empty(batch, height // step, width // step, self.channels)
        targets = out.split(strips[0].shape[1] // step, dim=1)
        for strip, target in zip(strips, targets, strict=True):
            self._feed_forward(self.block.attend(strip), target)
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Same as `WindowedBlock.attend`, of x (B, h, w, dim)."""
        if in_parts(x) and is_ragged(self.block, x.shape[1], x.shape[2]):
            return attend_ragged(self.block, x)
        parts = [self.block.attend(strip) for strip in self._strips(x)]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Map x (B, h, w, dim) to the same shape."""
        if not in_parts(x):
            return x + self.contract(self.expand(self.block.mlp_norm(x)))
        rows = max(1, TOKENS // x.shape[2])
        out = torch.empty_like(x)
        for part, target in zip(x.split(rows, dim=1), out.split(rows, dim=1), strict=True):
            self._feed_forward(part, target)
        return out

    def _feed_forward(self, x: Tensor, out: Tensor) -> None:
        torch.add(x, self.contract(self.expand(self.block.mlp_norm(x))), out=out)

    def _strips(self, x: Tensor) -> tuple[Tensor, ...]:
        """Rows of windows that attend apart: x itself where that is not so, or fits the cache."""
        window, height, width = self.block.window_size, x.shape[1], x.shape[2]
        windows = max(1, TOKENS // max(1, width * window))
        ragged = window and bool(height % window or width % window)
        if not in_parts(x) or not window or ragged or windows * window >= height:
            return (x,)
        return x.split(windows * window, dim=1)
