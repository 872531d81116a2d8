"""Recipes of instance segmentation: every number of a training run, by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from tempomask.data.instance_clips import ShortSides
from tempomask.errors import InputError, unknown_name
from tempomask.instances.query_routing import QueryRouterConfig
from tempomask.training.instances.matching import SetLossWeights
from tempomask.training.run import AveragedRecipe

Stage = Literal["minvis", "dvis", "tar", "tar-dvis"]
# A drop divides the learning rate by this.
DROP = 10.0


@dataclass(frozen=True)
class InstanceRecipe(AveragedRecipe):
    """One stage of training.

    Attributes:
        stage: "minvis" trains the segmenter on single images; "dvis" the tracker, with the
            segmenter frozen; "tar" the router and the decoder on pairs of frames, with the encoder
            frozen; "tar-dvis" the router and the tracker on clips, with the segmenter frozen.
        model: One of `models.instances.config.INSTANCE_SEGMENTERS`.
        image_size: Side of the clips, and shorter side of what the model then sees.
        short_sides: Sizes of the clips instead, as in the papers; None for squares.
        batch_size: Clips a step and process.
        num_frames: Frames a clip.
        learning_rate: Of all but the backbone.
        backbone_rate: The backbone's, as a share of it.
        frozen_stages: First stages of nano's stem that keep their ImageNet weights.
        drop_steps: Where the learning rate falls tenfold.
        noise_ratio: How often DVIS++'s tracks start noisy.
        guided_share: In this first part of the steps, the segmenter's own predictions decide which
            track answers for which instance.
        frozen_reid: The re-identification head stays as the start has it, as in the papers, which
            start from CTVIS; without, it learns beside the tracker.
        losses: Weights of the losses.
        router: TAR's configuration, None for stages without it; its dim and layers are the model's.
    """

    stage: Stage = "minvis"
    model: str = "nano-vis"
    image_size: int = 192
    short_sides: ShortSides | None = None
    steps: int = 6000
    batch_size: int = 32
    num_frames: int = 1
    learning_rate: float = 1e-4
    backbone_rate: float = 0.1
    frozen_stages: int = 0
    weight_decay: float = 0.05
    warmup_steps: int = 10
    drop_steps: tuple[int, ...] = (4000,)
    clip_norm: float = 0.01
    average_decay: float = 0.0
    noise_ratio: float = 0.5
    guided_share: float = 0.5
    frozen_reid: bool = False
    validate_every: int = 500
    losses: SetLossWeights = field(default_factory=SetLossWeights)
    router: QueryRouterConfig | None = None

    def __post_init__(self) -> None:
        least = {"minvis": 1, "dvis": 2, "tar": 2, "tar-dvis": 2}
        if self.stage not in least:
            raise InputError(f"unknown stage {self.stage!r}; use {', '.join(least)}")
        if self.num_frames < least[self.stage]:
            raise InputError(
                f"stage {self.stage} needs clips of {least[self.stage]} frames or more"
            )
        if self.routes != (self.router is not None):
            raise InputError(f"stage {self.stage} {'needs' if self.routes else 'has no'} router")

    @property
    def routes(self) -> bool:
        """Whether this stage trains TAR."""
        return self.stage in ("tar", "tar-dvis")

    @property
    def tracks(self) -> bool:
        """Whether this stage trains DVIS++'s tracker."""
        return self.stage in ("dvis", "tar-dvis")

    def rate(self, step: int) -> float:
        """Learning-rate factor at a step: linear warm-up, then tenfold drops."""
        return super().rate(step) / DROP ** sum(step >= drop for drop in self.drop_steps)

    def with_overrides(self, **values: object) -> Self:
        """The recipe with the given fields replaced; None keeps a field. InputError if unknown.

        When only the steps change, the drops move with them; another image_size makes squares.
        """
        if values.get("image_size") is not None:
            return replace(self, short_sides=None)._changed(values)
        return self._changed(values)

    def _changed(self, values: dict[str, object]) -> Self:
        steps = values.get("steps")
        if isinstance(steps, int) and values.get("drop_steps") is None:
            values["drop_steps"] = tuple(drop * steps // self.steps for drop in self.drop_steps)
        return super().with_overrides(**values)


# The papers': MinVIS's, DVIS++'s and TAR's (its section 4.1). DVIS++ also takes images of COCO on
# YouTube-VIS, which are not read here.
_MINVIS = InstanceRecipe(
    model="minvis-r50-ytvis19", image_size=360, short_sides=ShortSides((360, 480))
)
_DVIS = InstanceRecipe(
    stage="dvis",
    model="dvis-plus-r50-ytvis19",
    image_size=480,
    short_sides=ShortSides(
        (320, 352, 392, 416, 448, 480, 512, 544, 576, 608, 640), longest=768, crop=(384, 600)
    ),
    steps=40_000,
    batch_size=8,
    num_frames=5,
    drop_steps=(28_000,),
    frozen_reid=True,
)
_TAR = replace(
    _MINVIS,
    stage="tar",
    batch_size=8,
    num_frames=2,
    drop_steps=(5000,),
    router=QueryRouterConfig(),
)
_TAR_DVIS = replace(_DVIS, stage="tar-dvis", router=QueryRouterConfig())


def _of(data: str, recipe: InstanceRecipe, steps: int, drop: int) -> InstanceRecipe:
    """A recipe for YouTube-VIS 2019 on another data set."""
    model = recipe.model.replace("ytvis19", data)
    return replace(recipe, model=model, steps=steps, drop_steps=(drop,))


_PAPERS = {
    "minvis": _MINVIS,
    "minvis-ytvis21": _of("ytvis21", _MINVIS, 8000, 5500),
    "minvis-ovis": _of("ovis", _MINVIS, 10_000, 7000),
    "dvis": _DVIS,
    "dvis-ytvis21": _of("ytvis21", _DVIS, 40_000, 28_000),
    "dvis-ovis": _of("ovis", _DVIS, 40_000, 28_000),
    "tar": _TAR,
    "tar-ytvis21": _of("ytvis21", _TAR, 6000, 5000),
    "tar-ovis": _of("ovis", _TAR, 6000, 5000),
    "tar-dvis": _TAR_DVIS,
    "tar-dvis-ytvis21": _of("ytvis21", _TAR_DVIS, 40_000, 28_000),
    "tar-dvis-ovis": _of("ovis", _TAR_DVIS, 20_000, 14_000),
}

# nano-vis starts from ImageNet instead of COCO and trains within two hours on one core.
_NANO = InstanceRecipe(
    steps=5000,
    batch_size=8,
    learning_rate=5e-4,
    frozen_stages=4,
    warmup_steps=100,
    drop_steps=(4166,),
    clip_norm=1.0,
    average_decay=0.998,
    losses=SetLossWeights(points=784),
)
_NANO_ROUTER = QueryRouterConfig(dim=128, hidden_dim=64)
# The loss for layers is ours: by the equations alone nano's routers leave out one layer of nine.
_NANO_TAR = replace(
    _NANO,
    stage="tar",
    steps=400,
    batch_size=8,
    num_frames=2,
    learning_rate=1e-4,
    drop_steps=(333,),
    average_decay=0.99,
    losses=replace(_NANO.losses, layers=2.0),
    router=_NANO_ROUTER,
)
_NANO_DVIS = replace(
    _NANO,
    stage="dvis",
    model="nano-vis-dvis",
    steps=1500,
    batch_size=4,
    num_frames=5,
    learning_rate=2e-4,
    drop_steps=(1050,),
    average_decay=0.99,
)
_NANO_TAR_DVIS = replace(_NANO_DVIS, stage="tar-dvis", learning_rate=1e-4, router=_NANO_ROUTER)

RECIPES: dict[str, InstanceRecipe] = {
    **_PAPERS,
    "nano-vis": _NANO,
    "nano-vis-tar": _NANO_TAR,
    "nano-vis-dvis": _NANO_DVIS,
    "nano-vis-tar-dvis": _NANO_TAR_DVIS,
}


def instance_recipe(name: str) -> InstanceRecipe:
    """A recipe by name; InputError with near names if there is none."""
    if name not in RECIPES:
        raise unknown_name(f"unknown recipe {name!r}", name, RECIPES)
    return RECIPES[name]
