"""The recipe of nano: every number of its training."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from tempomask.errors import InputError
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling
from tempomask.training.run import AveragedRecipe


@dataclass(frozen=True)
class StepKind:
    """One kind of step.

    Clips of one frame ask for every object by clicks and boxes; longer ones are tracked.

    Attributes:
        share: Of the steps.
        clips: A step and process.
        frames: Of a clip.
        objects: Of a clip, at most.
    """

    share: float
    clips: int
    frames: int
    objects: int


@dataclass(frozen=True)
class Recipe(AveragedRecipe):
    """Training of nano: steps of frames that show several objects, and of clips, drawn in turn.

    Attributes:
        model: That is trained.
        kinds: What a step and process learns from.
        image_sizes: One is drawn for each step.
        learning_rate: Of new layers.
        stem_rate: The ImageNet stem's, as a share of it.
        frozen_stem_stages: First stages of the stem that keep their ImageNet weights.
        true_memory_steps: Up to this step, frames may be remembered by their true mask, with a
            probability that falls linearly to zero.
        frame_rounds: Prompts for every object of a single frame.
        teacher: Weight of `ImageTeacher`.
        validation: DAVIS sequences that are held out to watch progress; `coco-mini` has images of
            its own for that.
        validation_size: Of the images then.
        losses: Weights of the losses.
        frame_prompts: How single frames are prompted.
        clip_prompts: How clips are prompted.
        start: Digest of the weights that it starts from, which `train` fills in.
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
    true_memory_steps: int = 300
    frame_rounds: int = 2
    teacher: float = 0.3
    validate_every: int = 500
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

    def true_memory(self, step: int) -> float:
        """Probability that a frame of this step is remembered by its true mask."""
        return max(0.0, 1.0 - step / max(1, self.true_memory_steps))
