"""EdgeTAM's encoder for inference: norms folded, a token mixer as one convolution.

A depthwise 3x3 convolution, a 1x1 one and the identity beside it are one 3x3 convolution, whose
middle weight is their sum (arXiv 2307.09283, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.engine.folded import fold_norms, folded, folded_weights
from tempomask.engine.packed import Activation, fast_linear, in_parts, linear_of
from tempomask.models.encoder import EncoderOutput, Policy, RoutedBlock
from tempomask.models.repvit import ChannelMixer, RepViT, RepViTBlock, TokenMixer
from tempomask.ops.layers import FrozenBatchNorm

# Tokens of a channel mixer whose hidden layer stays in the cache.
TOKENS = 4096


class FastRepViT(RepViT):
    """The same function as the plain encoder it is made of, and of its parts."""

    def __init__(self, plain: RepViT, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.dtype = dtype
        self.patch_channels, self.channels = plain.patch_channels, plain.channels
        self.required_blocks, self.feature_blocks = plain.required_blocks, plain.feature_blocks
        self.blocks = nn.ModuleList(
            FastBlock(block, dtype) for block in plain.blocks if isinstance(block, ChannelMixer)
        )
        self.stem = plain.stem
        fold_norms(self)
        self.to(dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """Same as in `RepViT`."""
        image = image.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return super().forward(image, policy, previous_masks)


class FastBlock(RoutedBlock):
    """A block of `RepViT`, the same function; its own parts are exchanged."""

    def __init__(self, block: ChannelMixer, dtype: torch.dtype) -> None:
        super().__init__()
        self.expand = _linear(block.expand, block.expand_norm, dtype, "gelu")
        self.contract = _linear(block.contract, block.contract_norm, dtype)
        if isinstance(block, RepViTBlock):
            block.mixer = _merged(block.mixer)  # type: ignore[assignment]
        del block.expand, block.expand_norm, block.contract, block.contract_norm
        self.block = block

    def attend(self, x: Tensor) -> Tensor:
        """Same as in the plain block."""
        return self.block.attend(x)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Map x (B, h, w, C) to the same shape, some rows at a time."""
        if not in_parts(x):
            return x + self.contract(self.expand(x))
        rows = max(1, TOKENS // x.shape[2])
        out = torch.empty_like(x)
        for part, target in zip(x.split(rows, dim=1), out.split(rows, dim=1), strict=True):
            torch.add(part, self.contract(self.expand(part)), out=target)
        return out


def _linear(
    layer: nn.Linear, norm: FrozenBatchNorm, dtype: torch.dtype, activation: Activation = "none"
) -> nn.Module:
    return fast_linear(linear_of(*folded_weights(layer.weight, norm)), dtype, activation)


@torch.no_grad()
def _merged(mixer: TokenMixer) -> nn.Conv2d:
    """The token mixer as one depthwise convolution."""
    merged, beside = folded(mixer.depthwise), folded(mixer.pointwise)
    merged.weight += F.pad(beside.weight + 1, (1, 1, 1, 1))
    merged.bias += beside.bias  # type: ignore[operator]
    return merged
