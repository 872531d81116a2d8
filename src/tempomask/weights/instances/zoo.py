"""Every instance segmenter by name: its configuration, and where its weights come from."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tempomask.errors import unknown_name
from tempomask.models.instances.config import (
    LARGE_QUERIES,
    NANO_VIS,
    NANO_VIS_DVIS,
    RESNET_50,
    SWIN_SIZES,
    InstanceConfig,
    QueryDecoderConfig,
    ReferringTrackerConfig,
)
from tempomask.weights.instances.classes import COCO, OVIS, YTVIS_2019, YTVIS_2021
from tempomask.weights.zoo import NANO_LICENCE, ModelInfo

MINVIS_REPOSITORY = "deahuang/MinVIS-Model-Zoo"
MINVIS_LICENCE = "NVIDIA Source Code License-NC, not for commercial use"
DVIS_REPOSITORY = "zhangtao-whu/DVIS_Plus"
DVIS_LICENCE = "see the repository"
MASK2FORMER_LICENCE = "MIT (code); see the repository"
HUB = "https://huggingface.co"
DATASETS = {"ytvis19": YTVIS_2019, "ytvis21": YTVIS_2021, "ovis": OVIS}
# DVIS++ is evaluated at 480 pixels, MinVIS at 360, Mask2Former's images at 800.
DVIS_SIDE, MINVIS_SIDE, COCO_SIDE = 480, 360, 800


@dataclass(frozen=True)
class InstanceModel:
    """One named instance segmenter.

    router_file: bundled weights of the same model with TAR trained on top; empty if there are none.
    """

    config: InstanceConfig
    info: ModelInfo
    router_file: str = ""

    @property
    def router_info(self) -> ModelInfo:
        """Where the weights with TAR come from."""
        return replace(self.info, name=f"{self.info.name} with TAR", file=self.router_file)


def _bundled(config: InstanceConfig, title: str, parameters: float) -> InstanceModel:
    file = f"{config.name}.safetensors"
    side = config.short_side
    info = ModelInfo(config.name, title, parameters, side, file, None, "", NANO_LICENCE)
    return InstanceModel(config, info, f"{config.name}-tar.safetensors")


def _decoder(size: str) -> QueryDecoderConfig:
    return LARGE_QUERIES if size == "large" else QueryDecoderConfig()


def _minvis(backbone: str, dataset: str) -> InstanceModel:
    large = backbone == "swin-large"
    config = InstanceConfig(
        name=f"minvis-{backbone}-{dataset}",
        backbone=SWIN_SIZES["large"] if large else RESNET_50,
        classes=DATASETS[dataset],
        query_decoder=_decoder("large" if large else ""),
        short_side=DVIS_SIDE if large else MINVIS_SIDE,
    )
    file = f"minvis_{dataset}_{'swin_large' if large else 'R50'}.pth"
    info = ModelInfo(
        name=config.name,
        title=f"MinVIS {'Swin-L' if large else 'R50'}, {dataset}",
        parameters=216.0 if large else 44.0,
        image_size=config.short_side,
        file=file,
        repository=MINVIS_REPOSITORY,
        url=f"{HUB}/{MINVIS_REPOSITORY}/resolve/main/{file}",
        licence=MINVIS_LICENCE,
    )
    return InstanceModel(config, info)


def _dvis(dataset: str) -> InstanceModel:
    config = InstanceConfig(
        name=f"dvis-plus-r50-{dataset}",
        backbone=RESNET_50,
        classes=DATASETS[dataset],
        referring_tracker=ReferringTrackerConfig(),
        short_side=DVIS_SIDE,
    )
    # The repository does not name its files by model: the checkpoint has to be given.
    info = ModelInfo(
        name=config.name,
        title=f"DVIS++ online R50, {dataset}",
        parameters=71.0,
        image_size=DVIS_SIDE,
        file="",
        repository=DVIS_REPOSITORY,
        url=f"{HUB}/{DVIS_REPOSITORY}",
        licence=DVIS_LICENCE,
    )
    return InstanceModel(config, info)


def _hub(
    name: str, repository: str, size: str, classes: tuple[str, ...], side: int, parameters: float
) -> InstanceModel:
    """A Mask2Former of transformers."""
    backbone = RESNET_50 if size == "r50" else SWIN_SIZES[size]
    config = InstanceConfig(
        name=name,
        backbone=backbone,
        classes=classes,
        query_decoder=_decoder(size),
        short_side=side,
    )
    file = "model.safetensors"
    info = ModelInfo(
        name=name,
        title=name.replace("mask2former", "Mask2Former"),
        parameters=parameters,
        image_size=side,
        file=file,
        repository=repository,
        url=f"{HUB}/{repository}/resolve/main/{file}",
        licence=MASK2FORMER_LICENCE,
    )
    return InstanceModel(config, info)


_SWIN_PARAMETERS = {"tiny": 47.4, "small": 68.7, "base": 106.9, "large": 215.5}
_HUB_SIZES = {"base": "base-IN21k"}
_VIDEO_SIZES = {"2019": ("tiny", "small"), "2021": ("tiny", "small", "base", "large")}
_ALL = [
    _bundled(NANO_VIS, "nano-vis, MinVIS, bundled", 3.5),
    _bundled(NANO_VIS_DVIS, "nano-vis with DVIS++'s tracker", 5.9),
    *(_minvis(b, dataset) for b in ("r50", "swin-large") for dataset in DATASETS),
    *(_dvis(dataset) for dataset in DATASETS),
    _hub(
        "mask2former-r50-coco",
        "ClownRat/mask2former-resnet-50-coco-instance",
        "r50",
        COCO,
        COCO_SIDE,
        44.0,
    ),
    *(
        _hub(
            f"mask2former-swin-{size}-coco",
            f"facebook/mask2former-swin-{_HUB_SIZES.get(size, size)}-coco-instance",
            size,
            COCO,
            COCO_SIDE,
            parameters,
        )
        for size, parameters in _SWIN_PARAMETERS.items()
    ),
    *(
        _hub(
            f"video-mask2former-swin-{size}-ytvis{year[2:]}",
            f"shivalikasingh/video-mask2former-swin-{_HUB_SIZES.get(size, size)}"
            f"-youtubevis-{year}-instance",
            size,
            DATASETS[f"ytvis{year[2:]}"],
            MINVIS_SIDE,
            _SWIN_PARAMETERS[size],
        )
        for year, sizes in _VIDEO_SIZES.items()
        for size in sizes
    ),
]
INSTANCE_MODELS: dict[str, InstanceModel] = {model.config.name: model for model in _ALL}


def instance_model(name: str) -> InstanceModel:
    """A model by name; InputError with near names if there is none."""
    if name not in INSTANCE_MODELS:
        raise unknown_name(f"unknown instance model {name!r}", name, INSTANCE_MODELS)
    return INSTANCE_MODELS[name]
