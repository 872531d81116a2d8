"""Configurations of instance segmenters: frozen dataclasses with named variants."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from tempomask.errors import InputError, unknown_name
from tempomask.models.instances.classes import COCO, OVIS, YTVIS_2019, YTVIS_2021

# Sides of a padded image are multiples of this many pixels: the coarsest stride.
SIZE_MULTIPLE = 32
TrackerKind = Literal["minvis", "dvis", "ctvis"]


@dataclass(frozen=True)
class ResNetConfig:
    """A residual network with frozen batch norms; the defaults are R50.

    channels, blocks: of as many stages as are wanted. basic: two 3x3 convolutions a block, as R18
    has, in place of a bottleneck. inputs: channels of the image.
    """

    stem_channels: int = 64
    channels: tuple[int, ...] = (256, 512, 1024, 2048)
    blocks: tuple[int, ...] = (3, 4, 6, 3)
    basic: bool = False
    inputs: int = 3


@dataclass(frozen=True)
class SwinConfig:
    """A Swin transformer; the defaults are Swin-T."""

    embed_dim: int = 96
    blocks: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7


@dataclass(frozen=True)
class StemConfig:
    """nano's convolutional stem (EfficientNet-Lite0); last_blocks: of its four at stride 32."""

    last_blocks: int = 2


@dataclass(frozen=True)
class ViTAdapterConfig:
    """ViT-Adapter on DINOv2; the defaults are DVIS++'s ViT-L.

    parts: of the blocks, after each of which an extractor reads the tokens. mixing_ratio: hidden
    width of an extractor's convolution over the width. prior_channels: of the convolutions at
    stride 4. position_size: side of the grid of learned positions.
    """

    dim: int = 1024
    depth: int = 24
    num_heads: int = 16
    patch_size: int = 16
    parts: int = 4
    points: int = 4
    mixing_ratio: float = 0.25
    prior_channels: int = 64
    position_size: int = 37


BackboneConfig = ResNetConfig | SwinConfig | StemConfig | ViTAdapterConfig


@dataclass(frozen=True)
class PixelDecoderConfig:
    """Deformable attention over three levels. points: sampled on each level by each head."""

    layers: int = 6
    num_heads: int = 8
    feedforward_dim: int = 1024
    points: int = 4


@dataclass(frozen=True)
class QueryDecoderConfig:
    """Masked attention. layers counts decoder layers, one less than detectron2's DEC_LAYERS."""

    layers: int = 9
    num_heads: int = 8
    feedforward_dim: int = 2048
    num_queries: int = 100


@dataclass(frozen=True)
class ReferringTrackerConfig:
    """DVIS++'s referring tracker and the hidden width of its re-identification head.

    reid_dim: None for DVIS, which has no such head, and no projections of references and masks.
    """

    layers: int = 6
    num_heads: int = 8
    feedforward_dim: int = 2048
    reid_dim: int | None = 256

    def width(self, hidden_dim: int) -> int:
        """Channels of a track: a query's, and as many that identify it."""
        return hidden_dim if self.reid_dim is None else 2 * hidden_dim


@dataclass(frozen=True)
class RefinerConfig:
    """The temporal refiner of DVIS and DVIS++, which sees the whole video."""

    layers: int = 6
    num_heads: int = 8
    feedforward_dim: int = 2048


@dataclass(frozen=True)
class MemoryTrackerConfig:
    """CTVIS's memory bank and the hidden width of its re-identification head; as released.

    least_score: probability of a class above which a query is a detection.
    max_overlap: IoU with a better detection up to which it stays one.
    least_match: answer above which it joins a track.
    patience: frames without it after which a track is forgotten.
    kept: embeddings of a track that a new one is compared with.
    slots: tracks at most; beyond, the one that was not seen for the longest is forgotten.
    """

    reid_dim: int = 256
    least_score: float = 0.01
    max_overlap: float = 0.6
    least_match: float = 0.3
    patience: int = 20
    kept: int = 10
    slots: int = 300


@dataclass(frozen=True)
class InstanceConfig:
    """One instance segmenter.

    classes: names of the classes, in the order of the class head; no-object comes after them.
    short_side: pixels of the image's shorter side as the network sees it; long_side: at most.
    refiner: after a referring tracker, offline; None online.
    referring_tracker: DVIS++'s; memory_tracker: CTVIS's. Without either, MinVIS's, which matches
        queries and learns nothing.
    """

    name: str
    backbone: BackboneConfig
    classes: tuple[str, ...]
    hidden_dim: int = 256
    pixel_decoder: PixelDecoderConfig = field(default_factory=PixelDecoderConfig)
    query_decoder: QueryDecoderConfig = field(default_factory=QueryDecoderConfig)
    referring_tracker: ReferringTrackerConfig | None = None
    memory_tracker: MemoryTrackerConfig | None = None
    refiner: RefinerConfig | None = None
    short_side: int = 360
    long_side: int = 1333

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def tracker(self) -> TrackerKind:
        if self.memory_tracker is not None:
            return "ctvis"
        return "minvis" if self.referring_tracker is None else "dvis"

    def with_short_side(self, short_side: int) -> InstanceConfig:
        """The same segmenter at another resolution; InputError below two strides."""
        if short_side < 2 * SIZE_MULTIPLE:
            raise InputError(
                f"image_size {short_side} does not fit {self.name}: it must be at least"
                f" {2 * SIZE_MULTIPLE} pixels"
            )
        return replace(self, short_side=short_side, long_side=max(self.long_side, short_side))


# What `tempomask`'s own synthetic set of videos holds.
SYNTHETIC_CLASSES = ("person", "horse", "nucleus", "shape")
NANO_VIS = InstanceConfig(
    name="nano-vis",
    backbone=StemConfig(),
    classes=SYNTHETIC_CLASSES,
    hidden_dim=128,
    pixel_decoder=PixelDecoderConfig(layers=1, feedforward_dim=256),
    query_decoder=QueryDecoderConfig(feedforward_dim=256, num_queries=30),
    short_side=192,
    long_side=352,
)
NANO_VIS_DVIS = replace(
    NANO_VIS,
    name="nano-vis-dvis",
    referring_tracker=ReferringTrackerConfig(layers=3, feedforward_dim=256, reid_dim=128),
)

DATASETS = {"ytvis19": YTVIS_2019, "ytvis21": YTVIS_2021, "ovis": OVIS}
# The data sets that Video Mask2Former's sizes were published for.
VIDEO_SIZES = {"ytvis19": ("tiny", "small"), "ytvis21": ("tiny", "small", "base", "large")}
BACKBONES: dict[str, BackboneConfig] = {
    "r50": ResNetConfig(),
    "swin-tiny": SwinConfig(),
    "swin-small": SwinConfig(blocks=(2, 2, 18, 2)),
    "swin-base": SwinConfig(128, (2, 2, 18, 2), (4, 8, 16, 32), 12),
    "swin-large": SwinConfig(192, (2, 2, 18, 2), (6, 12, 24, 48), 12),
    "vit-adapter-large": ViTAdapterConfig(),
}
# Models of these have twice as many queries.
LARGE = ("swin-large", "vit-adapter-large")
# DVIS++ and MinVIS with Swin-L are evaluated at 480 pixels, MinVIS at 360, images at 800.
DVIS_SIDE, MINVIS_SIDE, COCO_SIDE = 480, 360, 800


def _published(
    family: str,
    backbone: str,
    data: str,
    short_side: int,
    referring_tracker: ReferringTrackerConfig | None = None,
    memory_tracker: MemoryTrackerConfig | None = None,
) -> InstanceConfig:
    return InstanceConfig(
        name=f"{family}-{backbone}-{data}",
        backbone=BACKBONES[backbone],
        classes=DATASETS.get(data, COCO),
        query_decoder=QueryDecoderConfig(num_queries=200 if backbone in LARGE else 100),
        referring_tracker=referring_tracker,
        memory_tracker=memory_tracker,
        short_side=short_side,
    )


_VARIANTS = [
    NANO_VIS,
    NANO_VIS_DVIS,
    *(_published("minvis", "r50", data, MINVIS_SIDE) for data in DATASETS),
    *(_published("minvis", "swin-large", data, DVIS_SIDE) for data in DATASETS),
    *(
        _published("dvis-plus", backbone, data, DVIS_SIDE, ReferringTrackerConfig())
        for backbone in ("r50", *LARGE)
        for data in DATASETS
    ),
    *(
        _published("dvis", backbone, data, short_side, ReferringTrackerConfig(reid_dim=None))
        for backbone, short_side in (("r50", MINVIS_SIDE), ("swin-large", DVIS_SIDE))
        for data in DATASETS
    ),
    *(
        _published("ctvis", backbone, data, DVIS_SIDE, memory_tracker=MemoryTrackerConfig())
        for backbone in ("r50", "swin-large")
        for data in DATASETS
    ),
    *(
        _published("mask2former", backbone, "coco", COCO_SIDE)
        for backbone in BACKBONES
        if backbone != "vit-adapter-large"
    ),
    *(
        _published("video-mask2former", f"swin-{size}", data, MINVIS_SIDE)
        for data, sizes in VIDEO_SIZES.items()
        for size in sizes
    ),
]
# Those with a tracker that refers to the last frame also came with a refiner on top.
_VARIANTS += [
    replace(config, name=f"{config.name}-offline", refiner=RefinerConfig())
    for config in _VARIANTS
    if config.referring_tracker is not None and config is not NANO_VIS_DVIS
]
INSTANCE_SEGMENTERS: dict[str, InstanceConfig] = {config.name: config for config in _VARIANTS}


def instance_config(name: str) -> InstanceConfig:
    """The configuration of a named model; InputError with near names if there is none."""
    if name not in INSTANCE_SEGMENTERS:
        raise unknown_name(f"unknown instance model {name!r}", name, INSTANCE_SEGMENTERS)
    return INSTANCE_SEGMENTERS[name]
