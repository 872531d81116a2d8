"""EdgeTAM's image encoder: RepViT-M1, convolutions in the layout of a transformer.

Architecture: arXiv 2307.09283, as EdgeTAM uses it (arXiv 2501.07256). A block mixes tokens by a
depthwise 3x3 convolution beside a 1x1 one and the identity, weighs channels by a squeeze and
excitation in every second block, and mixes channels by an MLP.

B batch, S image side, h x w token grid, C channels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import RepViTConfig
from tempomask.models.encoder import Encoder, EncoderOutput, Policy, RoutedBlock
from tempomask.ops.layers import ConvolutionNorm, FrozenBatchNorm

MLP_RATIO = 2
# Channels of a squeeze over those of its block, rounded to a multiple of 8.
SQUEEZE = 4


def channels_first(x: Tensor) -> Tensor:
    """(B, h, w, C) as (B, C, h, w), the channels still last in memory."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Undo `channels_first`."""
    return x.permute(0, 2, 3, 1)


class ChannelMixer(RoutedBlock):
    """The half that all blocks share: an MLP of linear layers, each with its frozen norm."""

    attention_layers = ()

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * channels
        self.expand = nn.Linear(channels, hidden, bias=False)
        self.expand_norm = FrozenBatchNorm(hidden)
        self.contract = nn.Linear(hidden, channels, bias=False)
        self.contract_norm = FrozenBatchNorm(channels)

    def feed_forward(self, x: Tensor) -> Tensor:
        """Map x (B, h, w, C) to the same shape."""
        hidden = F.gelu(self.expand_norm(channels_first(self.expand(x))))
        change = self.contract(channels_last(hidden))
        return x + channels_last(self.contract_norm(channels_first(change)))


class TokenMixer(nn.Module):
    """A depthwise 3x3 convolution, a 1x1 one and the identity side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.depthwise = ConvolutionNorm(channels, channels, 3, groups=channels)
        self.pointwise = ConvolutionNorm(channels, channels, 1, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.depthwise(x) + self.pointwise(x) + x


class RepViTBlock(ChannelMixer):
    """Token mixer, squeeze and excitation if `excites`, channel mixer. Any of them can be skipped.

    In place of attention stand convolutions, so that adapters go to the channel mixer alone.
    """

    def __init__(self, channels: int, excites: bool) -> None:
        super().__init__(channels)
        self.mixer = TokenMixer(channels)
        squeezed = max(8, (channels // SQUEEZE + 4) // 8 * 8)
        self.squeeze = nn.Conv2d(channels, squeezed, 1) if excites else None
        self.excite = nn.Conv2d(squeezed, channels, 1) if excites else None

    def attend(self, x: Tensor) -> Tensor:
        """Map x (B, h, w, C) to the same shape."""
        mixed = self.mixer(channels_first(x))
        if self.squeeze is not None and self.excite is not None:
            mean = mixed.mean(dim=(2, 3), keepdim=True)
            mixed = mixed * self.excite(F.relu(self.squeeze(mean))).sigmoid()
        return channels_last(mixed)


class Downsampler(ChannelMixer):
    """Begins a stage: halves the grid, widens the tokens, then mixes channels. Required."""

    def __init__(self, channels: int, output: int) -> None:
        super().__init__(output)
        self.halve = ConvolutionNorm(channels, channels, 3, stride=2, groups=channels)
        self.widen = ConvolutionNorm(channels, output, 1)

    def attend(self, x: Tensor) -> Tensor:
        """From x (B, h, w, C) to (B, h / 2, w / 2, C'); odd sizes are rounded up."""
        return channels_last(self.widen(self.halve(channels_first(x))))


class RepViT(Encoder):
    """A stem to stride 4, then stages of blocks; features are those at stage ends.

    Between two stages stand a block of the former's width, which belongs to neither, and the
    downsampler, which alone cannot be skipped.
    """

    strides = (4, 8, 16, 32)
    patch_stride = 4

    def __init__(self, config: RepViTConfig) -> None:
        super().__init__()
        first, *_ = self.channels = config.channels
        self.patch_channels = first
        self.stem = nn.Sequential(
            ConvolutionNorm(3, first // 2, 3, stride=2),
            nn.GELU(),
            ConvolutionNorm(first // 2, first, 3, stride=2),
        )
        self.blocks = nn.ModuleList()
        required, ends = [], []
        for stage, (depth, channels) in enumerate(zip(config.stages, config.channels, strict=True)):
            if stage:
                before = config.channels[stage - 1]
                self.blocks.append(RepViTBlock(before, excites=False))
                required.append(len(self.blocks))
                self.blocks.append(Downsampler(before, channels))
            for index in range(depth):
                self.blocks.append(RepViTBlock(channels, excites=index % 2 == 0))
            ends.append(len(self.blocks) - 1)
        self.required_blocks, self.feature_blocks = frozenset(required), tuple(ends)

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """Encode an image (B, 3, S, S), normalised; S a multiple of 32. See `EncoderOutput`."""
        x = channels_last(self.stem(image))
        emitted, blocks = self.run_blocks(x, policy, previous_masks)
        return EncoderOutput([channels_first(x) for x in emitted], blocks)
