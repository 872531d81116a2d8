"""Recipes of fine-tuning: SAM 2's own, and the two stages of EfficientTAM, every number of them.

SAM 2's is the one that its code releases for fine-tuning on MOSE (arXiv 2408.00714, appendix D.2);
EfficientTAM's stand in arXiv 2411.18933, section 4.1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

import torch

from tempomask.data.footage_clips import ClipChanges
from tempomask.errors import check_choice, check_least, unknown_name
from tempomask.training.losses import LossWeights
from tempomask.training.run import AveragedRecipe

Schedule = Literal["cosine", "reciprocal-sqrt"]


@dataclass(frozen=True)
class PromptedFrames:
    """Which frames of a clip are prompted at first, which are corrected, and by points or masks."""

    points: bool
    conditioning: tuple[int, ...]
    corrected: tuple[int, ...]


@dataclass(frozen=True)
class InteractiveSampling:
    """How SAM 2's training prompts clips.

    Attributes:
        points: Probability that a clip is prompted by clicks or boxes, else by masks.
        box: Probability that a prompted frame then gets a box, else a click.
        box_jitter: Deviation of a box's sides, as a share of the box; as that of uniform draws
            up to 0.1.
        conditioning: Most frames that are prompted at first: the first and others at random.
        corrected: Most frames that get corrective clicks.
        corrections: Clicks on each of them.
        from_truth: Probability that such a click is anywhere on the object, not on an error.
    """

    points: float = 0.5
    box: float = 0.5
    box_jitter: float = 0.058
    conditioning: int = 2
    corrected: int = 2
    corrections: int = 7
    from_truth: float = 0.1

    def drawn(self, length: int, generator: torch.Generator) -> PromptedFrames:
        """The frames of a clip of so many; one image is always prompted by points."""
        points = length == 1 or torch.rand((), generator=generator).item() < self.points
        # At least one frame is left to be tracked.
        first = _between(1, min(self.conditioning, max(1, length - 1)), generator)
        most = min(max(first, self.corrected), length) if points else first
        every = _between(first, most, generator)
        others = (1 + torch.randperm(length - 1, generator=generator)).tolist()
        frames = (0, *others)
        return PromptedFrames(points, frames[:first], frames[:every] if points else ())


def _between(low: int, high: int, generator: torch.Generator) -> int:
    return int(torch.randint(low, high + 1, (), generator=generator))


@dataclass(frozen=True)
class FinetuneRecipe(AveragedRecipe):
    """Fine-tuning of a segmenter; rates are those of the schedule's height.

    Attributes:
        model: By name; a run is only resumed with the same.
        start: Digest of the weights that it starts from.
        data: Sets, as the user wrote them.
        passes: Clips of each video or image, by which the number of steps is set; 0 for `steps`.
        image_size: Side of the network's input.
        batch_size: Clips a step and process.
        at_once: Of these, how many are computed at a time.
        num_frames: Of a clip.
        most_objects: Of a clip.
        learning_rate: Of all but the encoder and its neck.
        encoder_rate: Of these.
        layer_decay: By which the rate falls from each encoder block to the one before it.
        weight_decay: Of all but biases and layer norms.
        drop_path: Of the encoder's last block; less before it.
        dropout: In memory attention.
        schedule: Of the rates after the linear warm-up. The cosine falls to `final_share`; the
            reciprocal square root of 1 + step / `timescale` ends in a linear cooldown over
            `decay_steps`.
        frozen: Parts of the network, by how their names begin, that are not trained.
        lora: Rank of adapters on the encoder, which is then frozen but for them; 0 for none.
        checkpointing: Compute activations twice instead of keeping them.
        losses: Weights of the losses.
        prompts: How clips are prompted.
        changes: Of clips.
    """

    model: str = "sam2.1-tiny"
    start: str = ""
    data: tuple[str, ...] = ()
    passes: int = 0
    image_size: int = 1024
    batch_size: int = 1
    at_once: int = 1
    num_frames: int = 8
    most_objects: int = 3
    learning_rate: float = 5e-6
    encoder_rate: float = 3e-6
    layer_decay: float = 0.9
    weight_decay: float = 0.1
    drop_path: float = 0.1
    dropout: float = 0.1
    clip_norm: float = 0.1
    schedule: Schedule = "cosine"
    final_share: float = 0.1
    timescale: int = 1000
    average_decay: float = 0.999
    frozen: tuple[str, ...] = ()
    lora: int = 0
    checkpointing: bool = True
    losses: LossWeights = field(default_factory=LossWeights)
    prompts: InteractiveSampling = field(default_factory=InteractiveSampling)
    changes: ClipChanges = field(default_factory=ClipChanges)

    def __post_init__(self) -> None:
        check_choice("schedule", self.schedule, Schedule)
        least = {"steps": 1, "batch_size": 1, "at_once": 1, "num_frames": 1, "most_objects": 1}
        check_least(self, **least, lora=0)

    def rate(self, step: int) -> float:
        """What the learning rates of a step are multiplied by."""
        rising = min(1.0, (step + 1) / max(1, self.warmup_steps))
        after = max(0, step - self.warmup_steps)
        if self.schedule == "cosine":
            progress = after / max(1, self.steps - self.warmup_steps)
            fallen = (1 - math.cos(math.pi * progress)) / 2
            return rising * (1 - (1 - self.final_share) * fallen)
        cooling = min(1.0, (self.steps - step) / max(1, self.decay_steps))
        return rising * cooling / math.sqrt(1 + after / self.timescale)


# EfficientTAM's global batch is 256 of as many GPUs; rates are for that.
RECIPES: dict[str, FinetuneRecipe] = {
    "sam2": FinetuneRecipe(passes=80),  # 40 epochs, in which each video comes twice
    "efficienttam-images": FinetuneRecipe(
        model="efficienttam-ti",
        steps=90_000,
        num_frames=1,
        most_objects=64,
        learning_rate=4e-4,
        encoder_rate=4e-4,
        layer_decay=0.8,
        drop_path=0.0,
        schedule="reciprocal-sqrt",
        warmup_steps=1000,
        decay_steps=5000,
        # The paper names focal and dice; the predicted IoU chooses the mask that clicks correct,
        # and learns too. The object is always there.
        losses=LossWeights(object_score=0.0),
        changes=ClipChanges(degrees=0.0, shear=0.0, colours=None),
        validate_every=1000,
        save_every=1000,
    ),
    "efficienttam-videos": FinetuneRecipe(
        model="efficienttam-ti",
        steps=300_000,
        learning_rate=3e-4,
        encoder_rate=6e-5,
        layer_decay=0.8,
        drop_path=0.0,
        warmup_steps=15_000,
        validate_every=1000,
        save_every=1000,
    ),
}


def finetune_recipe(name: str) -> FinetuneRecipe:
    """A recipe by its name; InputError with near names if there is none."""
    if name not in RECIPES:
        raise unknown_name(f"unknown recipe {name!r}", name, RECIPES)
    return RECIPES[name]
