"""The second stage of nano's training: what clicks and boxes mean.

After the first stage a small network tracks masks, but it hardly meets a click with the place that
was clicked. Two phases mend that, on images with several objects (`data/scenes.py`):

1. The prompt encoder, the prompt maps and the mask decoder alone. The attention between tokens and
   image starts as a match of positions (`prompt_start.py`).
2. Everything but the frozen stem, from the average of phase 1: steps on scenes take turns with
   steps on tracking clips, so that tracking stays.

As in every run, data and prompts of a step depend on the seed and the step alone.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tempomask.data.clips import Clip, ClipMixture, collate
from tempomask.data.scenes import Scene, SceneBatch, SceneMixture, collate_scenes, validation_scenes
from tempomask.errors import InputError
from tempomask.files import write_json
from tempomask.models.segmenter import Segmenter
from tempomask.ops.normalise import normalise
from tempomask.training.loop import ClipBatch, davis_folder
from tempomask.training.losses import LossWeights
from tempomask.training.prompt_start import with_prompt_maps
from tempomask.training.prompts import PromptSampling
from tempomask.training.recipe import Recipe, overridden, parameter_groups
from tempomask.training.run import AveragedRun, batches, move_average
from tempomask.training.unroll import ClipModel, encoded_per_object
from tempomask.training.validation import validate, validate_prompts

# What phase 1 trains; the decoder's projections of fine features belong to the encoder's pass.
DECODER_PARTS = ("prompt_encoder", "prompt_maps", "mask_decoder", "no_memory")
ENCODER_PASS = ("mask_decoder.stride_4", "mask_decoder.stride_8")
# What is added to the seed for the scenes and the clips.
SCENE_SEED, CLIP_SEED = 10, 20
VALIDATION_BATCH = 8


@dataclass(frozen=True)
class PromptRecipe:
    """Training of clicks and boxes.

    steps: optimiser steps of both phases; decoder_steps: of phase 1. batch_size: scenes or clips a
    step and process; num_frames: frames a clip; scene_rounds: prompts for every object of a scene.
    attention_gain: of the tied attention, 0 leaves the weights as they are.
    decoder_*: of phase 1, whose rate falls to zero over its last decoder_decay (a share);
    learning_rate, warmup_steps, decay_steps, average_decay: of phase 2. A run can be prolonged, as
    with `Recipe`: steps and decay_steps may differ when it is resumed.
    stem_rate, frozen_stem_stages, weight_decay, clip_norm, validation: as of `Recipe`.
    track_every: steps of phase 2 between validations of tracking.
    start: digest of the weights that it starts from, which `train_prompts` fills in.
    """

    model: str = "nano"
    image_size: int = 256
    steps: int = 1850
    decoder_steps: int = 600
    batch_size: int = 8
    num_frames: int = 4
    scene_rounds: int = 2
    attention_gain: float = 1.6
    decoder_learning_rate: float = 5e-4
    decoder_warmup_steps: int = 50
    decoder_decay: float = 0.35
    decoder_average_decay: float = 0.99
    learning_rate: float = 3e-4
    stem_rate: float = 0.2
    frozen_stem_stages: int = 6
    weight_decay: float = 0.05
    warmup_steps: int = 60
    decay_steps: int = 360
    clip_norm: float = 1.0
    average_decay: float = 0.995
    seed: int = 1
    validate_every: int = 100
    track_every: int = 300
    save_every: int = 100
    validation: tuple[str, ...] = Recipe.validation
    losses: LossWeights = field(default_factory=LossWeights)
    scene_prompts: PromptSampling = field(
        default_factory=lambda: PromptSampling(mask=0.0, box=0.45, corrections=1)
    )
    clip_prompts: PromptSampling = field(
        default_factory=lambda: PromptSampling(mask=0.5, box=0.25, corrections=1)
    )
    start: str = ""

    def __post_init__(self) -> None:
        leasts = {"steps": 1, "decoder_steps": 0, "batch_size": 1, "num_frames": 2}
        leasts |= {"scene_rounds": 1, "validate_every": 1, "track_every": 1, "save_every": 1}
        for name, least in leasts.items():
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")

    def rate(self, step: int) -> float:
        """Learning-rate factor at a step of the run, see those of the phases."""
        joint = step - self.decoder_steps
        return self.decoder_rate(step) if joint < 0 else self.joint_rate(joint)

    def decoder_rate(self, step: int) -> float:
        """Learning-rate factor at a step of phase 1: linear warm-up, constant, linear to zero."""
        rise = min(1.0, (step + 1) / max(1, self.decoder_warmup_steps))
        falling = self.decoder_decay * self.decoder_steps
        left = self.decoder_steps - step
        return rise * (min(1.0, left / falling) if falling else 1.0)

    def joint_rate(self, step: int) -> float:
        """Learning-rate factor at a step of phase 2: linear warm-up, constant, 1 - sqrt decay."""
        rise = min(1.0, (step + 1) / max(1, self.warmup_steps))
        decayed = step - (self.steps - self.decoder_steps - self.decay_steps)
        return rise * (1.0 - math.sqrt(max(0, decayed) / (self.decay_steps + 1)))

    def with_overrides(self, **values: object) -> PromptRecipe:
        """The recipe with the given fields replaced; None keeps a field. InputError if unknown."""
        return overridden(self, values)


class PromptModel(nn.Module):
    """The loss of a batch of scenes or of clips; one module, so that DDP can wrap it."""

    def __init__(self, segmenter: Segmenter, recipe: PromptRecipe, trains_encoder: bool) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.rounds, self.trains_encoder = recipe.scene_rounds, trains_encoder
        self.scenes = ClipModel(segmenter, recipe.losses, recipe.scene_prompts)
        self.clips = ClipModel(segmenter, recipe.losses, recipe.clip_prompts)

    def forward(self, batch: SceneBatch | ClipBatch, seed: int, step: int) -> Tensor:
        """Mean loss of all predictions: a scalar. seed, step: prompts depend on these alone."""
        if not isinstance(batch, SceneBatch):
            return self.clips(*batch, seed + step).total
        target = batch.masks.float()
        with nullcontext() if self.trains_encoder else torch.no_grad():
            encoded = self.segmenter.encode(normalise(batch.frames))
        objects = encoded_per_object(encoded, batch.scene)
        losses: list[Tensor] = []
        for number in range(self.rounds):
            generator = torch.Generator().manual_seed(seed + step * self.rounds + number)
            losses += self.scenes.prompted_frame(objects, target, generator)[1]
        return torch.stack(losses).mean()


class TakingTurns(Dataset[Scene | Clip]):
    """Items of even steps are scenes, those of odd steps clips; per_step items a step."""

    def __init__(self, scenes: Dataset[Scene], clips: Dataset[Clip], per_step: int) -> None:
        self.sources, self.per_step = (scenes, clips), per_step

    def __getitem__(self, index: int) -> Scene | Clip:
        return self.sources[index // self.per_step % 2][index]


def _collate_either(items: list[Any]) -> SceneBatch | ClipBatch:
    return collate_scenes(items) if isinstance(items[0], Scene) else collate(items)


class PromptTraining(AveragedRun[PromptRecipe, "SceneBatch | ClipBatch", Segmenter]):
    """One run.

    segmenter: with prompt maps; it is changed. scenes, clips: datasets whose item i depends on i
    alone; shown: scenes to validate on; root: the folder of the data.
    """

    def __init__(
        self,
        recipe: PromptRecipe,
        segmenter: Segmenter,
        scenes: Dataset[Scene],
        clips: Dataset[Clip],
        shown: list[Scene],
        root: Path,
        out: Path,
        workers: int = 1,
    ) -> None:
        super().__init__(recipe, segmenter, out, unused_parameters=True)
        self.segmenter, self.root = segmenter, root
        self.scenes, self.clips, self.workers = scenes, clips, workers
        self.shown = [
            self._on_device(collate_scenes(shown[first : first + VALIDATION_BATCH]))
            for first in range(0, len(shown), VALIDATION_BATCH)
        ]
        self._begin_phase()

    @property
    def joint(self) -> bool:
        """Whether the next step is one of phase 2."""
        return self.step >= self.recipe.decoder_steps

    @property
    def phase_step(self) -> int:
        """Steps taken in this phase."""
        return self.step - self.recipe.decoder_steps if self.joint else self.step

    def _begin_phase(self) -> None:
        """A fresh optimiser of what the phase trains."""
        groups = self._joint_groups() if self.joint else self._decoder_groups()
        self._optimise(PromptModel(self.segmenter, self.recipe, trains_encoder=self.joint), groups)

    def _decoder_groups(self) -> list[dict[str, Any]]:
        for name, parameter in self.segmenter.named_parameters():
            trained = name.startswith(DECODER_PARTS) and not name.startswith(ENCODER_PASS)
            parameter.requires_grad_(trained)
        recipe = self.recipe
        return [
            {
                "params": [p for p in self.segmenter.parameters() if p.requires_grad],
                "lr": recipe.decoder_learning_rate,
                "weight_decay": recipe.weight_decay,
            }
        ]

    def _joint_groups(self) -> list[dict[str, Any]]:
        recipe = self.recipe
        self.segmenter.requires_grad_(True)
        rates = Recipe(
            learning_rate=recipe.learning_rate,
            stem_rate=recipe.stem_rate,
            frozen_stem_stages=recipe.frozen_stem_stages,
            weight_decay=recipe.weight_decay,
        )
        return parameter_groups(self.segmenter, rates)

    def _restore(self, saved: dict[str, Any]) -> None:
        self.step = saved["step"]
        self._begin_phase()
        super()._restore(saved)

    def _batches(self) -> Iterator[SceneBatch | ClipBatch]:
        while self.step < self.recipe.steps:
            for batch in self._phase_batches():
                yield self._on_device(batch)

    def _phase_batches(self) -> DataLoader[Any]:
        """What is left of the phase."""
        recipe, accelerator = self.recipe, self.accelerator
        end = recipe.steps - recipe.decoder_steps
        items, join = self.scenes, collate_scenes
        if self.joint:
            per_step = recipe.batch_size * accelerator.num_processes
            items, join = TakingTurns(self.scenes, self.clips, per_step), _collate_either
        else:
            end = min(recipe.steps, recipe.decoder_steps)
        span = range(self.phase_step, end)
        return batches(items, accelerator, recipe.batch_size, span, self.workers, join)

    def _loss(self, batch: SceneBatch | ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        return self.model(batch, (self.recipe.seed - 1) * 1_000_003, self.phase_step), {}

    def _kind(self, batch: SceneBatch | ClipBatch) -> str:
        return "scenes" if isinstance(batch, SceneBatch) else "clips"

    def _follow(self) -> None:
        recipe = self.recipe
        decay = recipe.average_decay if self.joint else recipe.decoder_average_decay
        move_average(self.average, self.segmenter, self.phase_step, decay)

    def _step_done(self) -> None:
        """Count the step; phase 2 goes on from the average of phase 1."""
        super()._step_done()
        if self.step == self.recipe.decoder_steps:
            self.segmenter.load_state_dict(self.average.state_dict())
            self._begin_phase()

    def _on_device(self, batch: Any) -> Any:
        moved = [tensor.to(self.accelerator.device, non_blocking=True) for tensor in batch]
        return SceneBatch(*moved) if isinstance(batch, SceneBatch) else tuple(moved)

    def _validate(self) -> dict[str, float]:
        recipe = self.recipe
        with self.accelerator.autocast():
            scores = validate_prompts(self.average, self.shown)
            due = self.phase_step % recipe.track_every == 0 or self.step == recipe.steps
            if self.joint and self.phase_step and due:
                tracked = validate(self.average, davis_folder(self.root), recipe.validation)
                scores |= {f"tracking/{name}": value for name, value in tracked.items()}
        return scores


def train_prompts(
    root: Path,
    out: Path,
    start: Path,
    recipe: PromptRecipe | None = None,
    workers: int = 1,
) -> Segmenter:
    """Train from the weights in the file start, resuming from out; returns the averaged model.

    Weights without prompt maps get new ones, drawn from the seed, and the tied attention; weights
    that bring maps are gone on with as they are. root and out as of `loop.train`; model.safetensors
    stores its configuration, so it loads as any other weights do. Raises InputError for weights
    that cannot be read or are of another model, for data that is missing, and for a folder out that
    holds a run with other settings or from other weights.
    """
    from tempomask.weights import load_segmenter, save_segmenter

    recipe = recipe or PromptRecipe()
    if not start.is_file():
        raise InputError(f"no weights to start from at {start}; give a .safetensors file")
    segmenter = load_segmenter(recipe.model, start, recipe.image_size).train()
    with start.open("rb") as file:
        recipe = replace(recipe, start=hashlib.file_digest(file, "sha256").hexdigest())
    size, seed, held_out = recipe.image_size, recipe.seed, recipe.validation
    scenes = SceneMixture(root, size, seed + SCENE_SEED, held_out)
    clips = ClipMixture(root, size, recipe.num_frames, seed + CLIP_SEED, held_out)
    shown = validation_scenes(root, held_out, size)
    out.mkdir(parents=True, exist_ok=True)
    segmenter = with_prompt_maps(segmenter, recipe.attention_gain, recipe.seed)
    training = PromptTraining(recipe, segmenter, scenes, clips, shown, root, out, workers)
    training.resume()
    write_json(out / "recipe.json", asdict(recipe))
    training.run()
    save_segmenter(training.average, out / "model.safetensors")
    return training.average
