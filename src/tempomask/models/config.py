"""Configurations of the segmenters: frozen dataclasses with named variants.

Sizes are in pixels or channels. `segmenter_config(name)` is the one way to a named variant.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from math import lcm
from operator import index
from typing import Literal, NamedTuple

from tempomask.errors import InputError, check_choice, unknown_name

# Pixels of a side: attention over a larger image fits no memory.
LARGEST = 8192

# Sides of windows that memories are pooled in.
WINDOWS = (1, 2, 4)
Pooling = Literal["none", "eq5", "eq6", "all"]


@dataclass(frozen=True)
class HieraConfig:
    """SAM 2's hierarchical trunk (Hiera without relative positions)."""

    embed_dim: int = 96
    num_heads: int = 1
    stages: tuple[int, ...] = (1, 2, 7, 2)
    global_attention_blocks: tuple[int, ...] = (5, 7, 9)
    window_sizes: tuple[int, ...] = (8, 4, 14, 7)
    position_size: tuple[int, int] = (7, 7)


@dataclass(frozen=True)
class ViTConfig:
    """EfficientTAM's plain vision transformer with windowed and global blocks."""

    dim: int = 384
    num_heads: int = 6
    depth: int = 12
    global_attention_blocks: tuple[int, ...] = (2, 5, 8, 11)
    window_size: int = 14
    patch_size: int = 16
    position_size: int = 14


@dataclass(frozen=True)
class HybridConfig:
    """nano's encoder: a convolutional stem (EfficientNet-Lite0), then plain transformer blocks.

    stem: residual blocks of each stage of the stem; it ends with stride 8 after three stages, with
    16 after five, and adds a stride-32 map after six.
    """

    dim: int = 160
    num_heads: int = 5
    depth: int = 14
    mlp_ratio: float = 4.0
    stem: tuple[int, ...] = (1, 2, 2, 3, 3, 4)


@dataclass(frozen=True)
class RepViTConfig:
    """EdgeTAM's convolutional encoder (RepViT-M1): blocks and channels of each stage."""

    stages: tuple[int, ...] = (2, 2, 14, 2)
    channels: tuple[int, ...] = (48, 96, 192, 384)


EncoderConfig = HieraConfig | ViTConfig | HybridConfig | RepViTConfig


@dataclass(frozen=True)
class MemoryForm:
    """How memories are attended to, with any weights (EfficientTAM, section 5.3).

    pooling: spatial keys are pooled by Eq. 5 or Eq. 6, or all tokens naively, pointers too.
    window: side of what is pooled into one.
    pointers: object pointers are attended to.
    linear: attention without a softmax, whose cost is linear in the tokens.
    """

    pooling: Pooling = "eq5"
    window: int = 2
    pointers: bool = True
    linear: bool = False

    def __post_init__(self) -> None:
        check_choice("pooling", self.pooling, Pooling)
        if isinstance(self.window, bool) or self.window not in WINDOWS:
            raise InputError(f"window must be one of {WINDOWS}, got {self.window!r}")


@dataclass(frozen=True)
class MemoryAttentionConfig:
    """pooling, window, pointers, linear: as in `MemoryForm`.

    image_keys: keys also see the image feature of the remembered frame, so that matching does not
    have to be learned from the mask-fused memory alone (nano).
    """

    layers: int = 4
    feedforward_dim: int = 2048
    rope_theta: float = 10000.0
    pooling: Pooling = "none"
    image_keys: bool = False
    window: int = 2
    pointers: bool = True
    linear: bool = False

    def __post_init__(self) -> None:
        MemoryForm(self.pooling, self.window)

    @property
    def form(self) -> str:
        """In words, for reports: the pooling, and what else is unusual."""
        unusual = {
            f"windows of {self.window}": self.pooling != "none" and self.window != 2,
            "no pointers": not self.pointers,
            "linear": self.linear,
        }
        return ", ".join([self.pooling, *(words for words, holds in unusual.items() if holds)])


@dataclass(frozen=True)
class PerceiverConfig:
    """EdgeTAM's 2D spatial perceiver: what is left of a remembered frame.

    latents: tokens that see the whole frame. grid: side of the square of tokens that see a window
    of it each.
    """

    layers: int = 2
    latents: int = 256
    grid: int = 16

    def __post_init__(self) -> None:
        if min(self.latents, self.grid) < 1:
            raise InputError(f"a perceiver has at least one token of each kind, got {self}")


class TokenGrid(NamedTuple):
    """The tokens of one remembered frame: unplaced ones, then those of a grid row by row."""

    height: int
    width: int
    unplaced: int = 0

    @property
    def tokens(self) -> int:
        return self.unplaced + self.height * self.width


@dataclass(frozen=True)
class MaskDecoderConfig:
    """Two-way transformer and heads of SAM's mask decoder."""

    depth: int = 2
    num_heads: int = 8
    feedforward_dim: int = 2048
    num_multimasks: int = 3
    iou_hidden_dim: int = 256


@dataclass(frozen=True)
class SegmenterConfig:
    """One segmenter: image encoder, memory, prompts and decoder.

    high_resolution: stride-4 and stride-8 features reach the mask decoder (SAM 2 and nano).
    occlusion_embedding: memories of absent objects get a learned offset (2.1).
    pointer_temporal_encoding: object pointers carry their signed distance in time (2.1).
    perceiver: compresses the memory of a frame (EdgeTAM).
    prompt_maps: clicks and boxes also become maps of the image (nano).
    multimask_min_points, multimask_max_points: number of points for which three masks compete.
    """

    name: str
    encoder: EncoderConfig
    image_size: int = 1024
    hidden_dim: int = 256
    memory_dim: int = 64
    memory_attention: MemoryAttentionConfig = field(default_factory=MemoryAttentionConfig)
    perceiver: PerceiverConfig | None = None
    mask_decoder: MaskDecoderConfig = field(default_factory=MaskDecoderConfig)
    high_resolution: bool = True
    occlusion_embedding: bool = True
    pointer_temporal_encoding: bool = True
    prompt_maps: bool = False
    memory_frames: int = 7
    max_pointers: int = 16
    mask_prompt_channels: int = 16
    multimask_min_points: int = 0
    multimask_max_points: int = 1

    @property
    def size_multiple(self) -> int:
        """The image side must be a multiple of this many pixels."""
        step = 16 if isinstance(self.encoder, ViTConfig) else 32
        if self.memory_attention.pooling != "none":
            step = lcm(step, 16 * self.memory_attention.window)
        return step if self.perceiver is None else lcm(step, 16 * self.perceiver.grid)

    @property
    def memory_grid(self) -> TokenGrid:
        """Where the tokens lie that are remembered of a frame."""
        if self.perceiver is None:
            return TokenGrid(self.image_size // 16, self.image_size // 16)
        return TokenGrid(self.perceiver.grid, self.perceiver.grid, self.perceiver.latents)

    @property
    def memory_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of what is remembered of a frame; latents are one column."""
        grid = self.memory_grid
        rows, columns = (grid.tokens, 1) if grid.unplaced else (grid.height, grid.width)
        return self.memory_dim, rows, columns

    def with_memory(self, form: MemoryForm) -> SegmenterConfig:
        """The same segmenter, whose memories are attended to so; its weights fit as they are."""
        if self.perceiver is not None and form.pooling != "none":
            raise InputError(
                f"the memories of {self.name} are few tokens already; leave pooled memory out"
            )
        attention = replace(self.memory_attention, **asdict(form))
        return replace(self, memory_attention=attention).with_image_size(self.image_size)

    def with_image_size(self, image_size: int) -> SegmenterConfig:
        """The same segmenter at another resolution; InputError if the strides do not allow it."""
        step = self.size_multiple
        try:
            image_size = index(image_size)
        except TypeError:
            raise InputError(
                f"image_size must be one whole number, the side of a square, got {image_size!r}"
            ) from None
        if not 2 * step <= image_size <= LARGEST or image_size % step:
            below = max(2 * step, min(image_size, LARGEST - step) // step * step)
            raise InputError(
                f"image_size {image_size} does not fit {self.name}: it must be a multiple of"
                f" {step}, at most {LARGEST}, for instance {below} or {below + step}"
            )
        return replace(self, image_size=image_size)


HIERA_SIZES = {
    "tiny": HieraConfig(),
    "small": HieraConfig(stages=(1, 2, 11, 2), global_attention_blocks=(7, 10, 13)),
    "base-plus": HieraConfig(
        embed_dim=112,
        num_heads=2,
        stages=(2, 3, 16, 3),
        global_attention_blocks=(12, 16, 20),
        position_size=(14, 14),
    ),
    "large": HieraConfig(
        embed_dim=144,
        num_heads=2,
        stages=(2, 6, 36, 4),
        global_attention_blocks=(23, 33, 43),
        window_sizes=(8, 4, 16, 8),
    ),
}
VIT_SIZES = {"s": ViTConfig(), "ti": ViTConfig(dim=192, num_heads=3)}
POOLINGS: dict[str, Pooling] = {"": "none", "-1": "eq5", "-2": "eq6"}

NANO = SegmenterConfig(
    name="nano",
    encoder=HybridConfig(),
    image_size=384,
    hidden_dim=128,
    memory_attention=MemoryAttentionConfig(layers=2, feedforward_dim=512, image_keys=True),
    mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=512, iou_hidden_dim=128),
    prompt_maps=True,
    # The single mask tracks better than the best of three by nano's own IoU guess (docs/nano.md).
    multimask_min_points=1,
)

# What the recipe of nano trains: fewer blocks, so that each counts, and no stride-32 stage.
NANO_2 = replace(
    NANO,
    encoder=HybridConfig(depth=8, mlp_ratio=3.0, stem=(1, 2, 2, 2, 2)),
    memory_attention=replace(NANO.memory_attention, pooling="eq5"),
)


def _sam2(version: str, size: str) -> SegmenterConfig:
    newer = version == "sam2.1"
    return SegmenterConfig(
        name=f"{version}-{size}",
        encoder=HIERA_SIZES[size],
        occlusion_embedding=newer,
        pointer_temporal_encoding=newer,
    )


def _efficienttam(size: str, pooling: str, resolution: str) -> SegmenterConfig:
    return SegmenterConfig(
        name=f"efficienttam-{size}{pooling}{resolution}",
        encoder=VIT_SIZES[size],
        image_size=512 if resolution else 1024,
        memory_attention=MemoryAttentionConfig(pooling=POOLINGS[pooling]),
        high_resolution=False,
        occlusion_embedding=False,
        pointer_temporal_encoding=False,
    )


EDGETAM = SegmenterConfig(
    name="edgetam",
    encoder=RepViTConfig(),
    memory_attention=MemoryAttentionConfig(layers=2),
    perceiver=PerceiverConfig(),
    occlusion_embedding=False,
    pointer_temporal_encoding=False,
)

_VARIANTS = [
    NANO,
    *(_sam2(version, size) for version in ("sam2", "sam2.1") for size in HIERA_SIZES),
    *(
        _efficienttam(size, pooling, resolution)
        for size in VIT_SIZES
        for pooling in POOLINGS
        for resolution in ("", "-512")
    ),
    EDGETAM,
]
SEGMENTERS: dict[str, SegmenterConfig] = {variant.name: variant for variant in _VARIANTS}


def segmenter_config(name: str) -> SegmenterConfig:
    """The configuration of a named model; InputError with near names if there is none."""
    if name not in SEGMENTERS:
        raise unknown_name(f"unknown model {name!r}", name, SEGMENTERS)
    return SEGMENTERS[name]
