"""nano's encoder: an EfficientNet-Lite0 stem, then plain transformer blocks at stride 16.

The stem gives local features cheaply (and starts from ImageNet weights); its stride-16 map, with
the stride-32 one where there is one, is the patch embedding of a stack of equal blocks, every one
of which can be skipped. Where the stem ends with stride 8, patches of 2 x 2 cells are embedded.
Normalisation of the stem is folded into its convolutions, so it has none at run time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.models.config import HybridConfig
from tempomask.models.encoder import Encoder, EncoderOutput, Policy, RoutedBlock
from tempomask.ops.attention import multi_head_attention
from tempomask.ops.rope import axial_frequencies, axial_table, rotate, rotation_table

# EfficientNet-Lite0 but for its last stage: (expansion, kernel, stride, channels), and repeats.
STAGES = (
    (1, 3, 1, 16),
    (6, 3, 2, 24),
    (6, 5, 2, 40),
    (6, 3, 2, 80),
    (6, 5, 1, 112),
    (6, 5, 2, 192),
)
REPEATS = (1, 2, 2, 3, 3, 4)
STEM_CHANNELS = 32
# Index in STAGES of the last stage at strides 4, 8, 16 and 32.
FEATURE_STAGES = (1, 2, 4, 5)


def same_padding(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Pad for an output of ceil(size / stride), the odd pixel at the end (TensorFlow)."""
    pads = []
    for size in (x.shape[-1], x.shape[-2]):
        total = max((-(size // -stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return F.pad(x, pads) if any(pads) else x


class SameConv2d(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding, as EfficientNet-Lite was trained."""

    def forward(self, input: Tensor) -> Tensor:
        x, kernel, stride = input, self.kernel_size[0], self.stride[0]
        if stride == 1:
            return F.conv2d(x, self.weight, self.bias, 1, kernel // 2, 1, self.groups)
        return super().forward(same_padding(x, kernel, stride))


class InvertedResidual(nn.Module):
    """Expand 1x1, depthwise, project 1x1; a residual where the shape stays."""

    def __init__(
        self, channels: int, output: int, expansion: int, kernel: int, stride: int
    ) -> None:
        super().__init__()
        inner = channels * expansion
        self.expand = nn.Conv2d(channels, inner, 1) if expansion > 1 else None
        self.depthwise = SameConv2d(inner, inner, kernel, stride, groups=inner)
        self.project = nn.Conv2d(inner, output, 1)
        self.residual = stride == 1 and channels == output

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x), inplace=True)
        y = self.project(F.relu6(self.depthwise(y), inplace=True))
        return x + y if self.residual else y


class ConvolutionalStem(nn.Module):
    """(B, 3, S, S) to maps of strides 4, 8, 16, 32 with 24, 40, 112, 192 channels.

    repeats: residual blocks of each stage; three stages end with stride 8, five with stride 16.
    """

    def __init__(self, repeats: tuple[int, ...] = REPEATS) -> None:
        super().__init__()
        self.channels = tuple(STAGES[i][3] for i in FEATURE_STAGES if i < len(repeats))
        self.first = SameConv2d(3, STEM_CHANNELS, 3, 2)
        stages, channels = [], STEM_CHANNELS
        for (expansion, kernel, stride, output), count in zip(STAGES, repeats, strict=False):
            blocks = []
            for repeat in range(count):
                step = stride if repeat == 0 else 1
                blocks.append(InvertedResidual(channels, output, expansion, kernel, step))
                channels = output
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)

    def forward(self, image: Tensor) -> list[Tensor]:
        return self.maps(F.relu6(self.first(image), inplace=True))

    def maps(self, x: Tensor) -> list[Tensor]:
        """All stages on the first convolution's output."""
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in FEATURE_STAGES:
                maps.append(x)
        return maps


class TransformerBlock(RoutedBlock):
    """Pre-norm global self-attention with axial rotary positions, then an MLP."""

    # Positions on a grid of at most a few dozen cells need no long wavelengths.
    ROPE_THETA = 100.0

    # (heads, 2, pairs): of a pruned block, whose heads keep pairs of channels of their own.
    rotary_frequencies: Tensor | None

    def __init__(self, dim: int, num_heads: int, mlp_ratio: float) -> None:
        super().__init__()
        attention_dim = num_heads * (dim // num_heads)
        mlp_dim = int(dim * mlp_ratio)
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(dim, eps=1e-6)
        self.qkv = nn.Linear(dim, 3 * attention_dim)
        self.output = nn.Linear(attention_dim, dim)
        self.mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.expand = nn.Linear(dim, mlp_dim)
        self.contract = nn.Linear(mlp_dim, dim)
        # Of the last grid: what it was made from, then the table.
        self._table: tuple[tuple[int, int, int], Tensor, tuple[Tensor, Tensor]] | None = None
        self.register_buffer("rotary_frequencies", None)

    def frequencies(self) -> Tensor:
        """(heads, 2, pairs): how fast each head's pairs of channels turn, see `ops.rope`."""
        if self.rotary_frequencies is not None:
            return self.rotary_frequencies
        head_dim = self.output.in_features // self.num_heads
        return axial_frequencies(head_dim, self.ROPE_THETA).repeat(self.num_heads, 1, 1)

    def attend(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        qkv = self.qkv(self.attention_norm(x)).reshape(batch, height * width, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        table = self.rotations(height, width, query.shape[-1], x.device)
        attended = multi_head_attention(rotate(query, table), rotate(key, table), value)
        return x + self.output(attended.transpose(1, 2).reshape(batch, height, width, -1))

    def rotations(
        self, height: int, width: int, head_dim: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine tables of a grid, see `axial_table`; a pruned block has its own."""
        frequencies = self.rotary_frequencies
        if frequencies is None:
            return axial_table(height, width, head_dim, self.ROPE_THETA, device)
        # Tensors made in inference mode never change, and count no versions.
        version = 0 if frequencies.is_inference() else frequencies._version
        key = (height, width, version)
        if self._table is None or self._table[0] != key or self._table[1] is not frequencies:
            with torch.inference_mode(False), torch.no_grad():
                table = rotation_table(height, width, frequencies)
            self._table = (key, frequencies, table)
        return self._table[2]

    def feed_forward(self, x: Tensor) -> Tensor:
        return x + self.contract(F.gelu(self.expand(self.mlp_norm(x))))


class HybridEncoder(Encoder):
    """Convolutional stem, then `depth` routed transformer blocks at stride 16."""

    strides = (4, 8, 16)
    patch_stride = 16

    def __init__(self, config: HybridConfig) -> None:
        super().__init__()
        self.stem = ConvolutionalStem(config.stem)
        stride_4, stride_8, *deeper = self.stem.channels
        if deeper:
            self.embed = nn.Conv2d(deeper[0], config.dim, 1)
        else:
            self.embed = nn.Conv2d(stride_8, config.dim, 2, 2)
        self.embed_coarse = nn.Conv2d(deeper[1], config.dim, 1) if len(deeper) > 1 else None
        self.embed_norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.dim, config.num_heads, config.mlp_ratio)
            for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.channels = (stride_4, stride_8, config.dim)
        self.patch_channels = config.dim
        self.required_blocks = frozenset()
        self.feature_blocks = (config.depth - 1,)

    def forward(
        self, image: Tensor, policy: Policy | None = None, previous_masks: Tensor | None = None
    ) -> EncoderOutput:
        """Encode an image (B, 3, S, S), normalised; S a multiple of 32. See `EncoderOutput`."""
        # Depthwise convolutions run nearly twice as fast on a CPU with the channels last.
        image = image.contiguous(memory_format=torch.channels_last)
        stride_4, stride_8, *deeper = self.stem(image)
        x = self.embed(deeper[0] if deeper else stride_8)
        if self.embed_coarse is not None:
            coarse = self.embed_coarse(deeper[1])
            x = x + F.interpolate(coarse, scale_factor=2.0, mode="nearest")
        embedding = self.embed_norm(x.permute(0, 2, 3, 1))
        emitted, blocks = self.run_blocks(embedding, policy, previous_masks)
        final = self.norm(emitted[-1]).permute(0, 3, 1, 2)
        return EncoderOutput([stride_4, stride_8, final], blocks)


def fold_efficientnet_lite0(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published EfficientNet-Lite0 state with its batch norms folded, in the names of the stem.

    state: keys such as `_blocks.3._expand_conv.weight` and `_bn0.running_mean`; the classifier and
    the last stage are left out. Normalisation eps 1e-3 as published.
    """
    folded: dict[str, Tensor] = {}

    def fold(source: str, norm: str, target: str) -> None:
        scale = state[f"{norm}.weight"] / torch.sqrt(state[f"{norm}.running_var"] + 1e-3)
        folded[f"{target}.weight"] = state[f"{source}.weight"] * scale[:, None, None, None]
        folded[f"{target}.bias"] = state[f"{norm}.bias"] - state[f"{norm}.running_mean"] * scale

    fold("_conv_stem", "_bn0", "first")
    block = 0
    for index, (expansion, _, _, _) in enumerate(STAGES):
        for repeat in range(REPEATS[index]):
            source, target = f"_blocks.{block}", f"stages.{index}.{repeat}"
            norms = iter(("_bn0", "_bn1", "_bn2") if expansion > 1 else ("_bn1", "_bn2"))
            if expansion > 1:
                fold(f"{source}._expand_conv", f"{source}.{next(norms)}", f"{target}.expand")
            fold(f"{source}._depthwise_conv", f"{source}.{next(norms)}", f"{target}.depthwise")
            fold(f"{source}._project_conv", f"{source}.{next(norms)}", f"{target}.project")
            block += 1
    return folded
