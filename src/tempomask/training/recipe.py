"""The recipe of nano: every number of its training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from torch import nn

from tempomask.errors import InputError
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.segmenter import Segmenter
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

AnyRecipe = TypeVar("AnyRecipe", bound="DataclassInstance")


@dataclass(frozen=True)
class StepKind:
    """One kind of step. share: of the steps; clips of so many frames with at most so many objects.

    Clips of one frame ask for every object by clicks and boxes; longer ones are tracked.
    """

    share: float
    clips: int
    frames: int
    objects: int


@dataclass(frozen=True)
class Recipe:
    """Training of nano: steps of frames that show several objects, and of clips, drawn in turn.

    steps: optimiser steps. kinds: what a step and process learns from. image_sizes: one is drawn
    for each step. learning_rate: of new layers; the ImageNet stem takes stem_rate times it.
    frozen_stem_stages: first stages of the stem that keep their ImageNet weights.
    decay_steps: the learning rate is constant after the warm-up and falls over this many last
        steps; a run can be prolonged: `steps` and `decay_steps` may differ when it is resumed.
    true_memory_steps: up to this step, frames may be remembered by their true mask, with a
        probability that falls linearly to zero.
    average_decay: of the moving average of the weights, which is what is validated and exported.
    frame_rounds: prompts for every object of a single frame. teacher: weight of `ImageTeacher`.
    validation: DAVIS sequences that are held out to watch progress, at validation_size; `coco-mini`
        has images of its own for that.
    start: digest of the weights that it starts from, which `train` fills in.
    """

    model: str = "nano"
    steps: int = 30_000
    kinds: tuple[StepKind, ...] = (
        StepKind(share=0.35, clips=6, frames=1, objects=6),
        StepKind(share=0.30, clips=4, frames=4, objects=2),
        StepKind(share=0.35, clips=2, frames=8, objects=3),
    )
    image_sizes: tuple[int, ...] = (256, 256, 320, 384)
    learning_rate: float = 3e-4
    stem_rate: float = 0.2
    frozen_stem_stages: int = 4
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_steps: int = 6000
    clip_norm: float = 1.0
    average_decay: float = 0.998
    true_memory_steps: int = 300
    frame_rounds: int = 2
    teacher: float = 0.3
    seed: int = 1
    validate_every: int = 500
    save_every: int = 100
    validation: tuple[str, ...] = ("dance-jump", "horsejump-low", "rollerblade", "soccerball")
    validation_size: int = 384
    losses: LossWeights = field(default_factory=LossWeights)
    frame_prompts: PromptSampling = field(
        default_factory=lambda: PromptSampling(mask=0.0, box=0.4, corrections=2)
    )
    clip_prompts: PromptSampling = field(
        default_factory=lambda: PromptSampling(mask=0.6, box=0.2, corrections=1)
    )
    start: str = ""

    def __post_init__(self) -> None:
        if not self.kinds or min(kind.share for kind in self.kinds) < 0:
            raise InputError("the kinds of steps need shares of 0 or more")
        for kind in self.kinds:
            if min(kind.clips, kind.frames, kind.objects) < 1:
                raise InputError(f"a step needs a clip, a frame and an object at least, got {kind}")

    def drawn(self, step: int) -> tuple[StepKind, int]:
        """Kind and image size of a step, by the seed and the step alone."""
        rng = np.random.default_rng((self.seed, step, 1))
        shares = np.array([kind.share for kind in self.kinds])
        kind = self.kinds[rng.choice(len(self.kinds), p=shares / shares.sum())]
        return kind, int(rng.choice(self.image_sizes))

    def rate(self, step: int) -> float:
        """Learning-rate factor at a step, see `schedule`."""
        return schedule(step, self.steps, self.warmup_steps, self.decay_steps)

    def true_memory(self, step: int) -> float:
        """Probability that a frame of this step is remembered by its true mask."""
        return max(0.0, 1.0 - step / max(1, self.true_memory_steps))

    def with_overrides(self, **values: object) -> Recipe:
        """The recipe with the given fields replaced; None keeps a field. InputError if unknown."""
        return overridden(self, values)


def overridden(recipe: AnyRecipe, values: dict[str, object]) -> AnyRecipe:
    """A recipe with the given fields replaced; None keeps a field. InputError if unknown."""
    unknown = sorted(set(values) - set(recipe.__dataclass_fields__))
    if unknown:
        raise InputError(f"the recipe has no setting {unknown[0]!r}")
    return replace(recipe, **{k: v for k, v in values.items() if v is not None})  # type: ignore[arg-type]


def schedule(step: int, steps: int, warmup_steps: int, decay_steps: int) -> float:
    """Learning-rate factor at a step: linear warm-up, constant, then 1 - sqrt decay to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decayed = step - (steps - decay_steps)
    return 1.0 if decayed < 0 else 1.0 - math.sqrt((decayed + 1) / (decay_steps + 1))


def parameter_groups(segmenter: Segmenter, recipe: Recipe) -> list[dict[str, object]]:
    """Optimiser groups: no decay on vectors, a lower rate for the stem, its first stages frozen."""
    if isinstance(segmenter.encoder, HybridEncoder):
        stem = segmenter.encoder.stem
        frozen = [stem.first, *stem.stages[: recipe.frozen_stem_stages]]
        for module in frozen if recipe.frozen_stem_stages else []:
            module.requires_grad_(False)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("encoder.stem."), parameter.dim() > 1)
            groups.setdefault(key, []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": recipe.learning_rate * (recipe.stem_rate if in_stem else 1.0),
            "weight_decay": recipe.weight_decay if decays else 0.0,
        }
        for (in_stem, decays), parameters in groups.items()
    ]
