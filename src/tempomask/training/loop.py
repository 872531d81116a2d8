"""The training of nano: clicks and boxes on single frames, and tracking over clips, in one run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tempomask.data.clips import FRAME_MIXTURE, ClipBatch, ClipMixture, collate
from tempomask.data.stills import DAVIS, ImageLibrary
from tempomask.errors import InputError
from tempomask.models.hybrid import ConvolutionalStem, HybridEncoder
from tempomask.models.segmenter import Segmenter
from tempomask.training.one_device import OneDevice
from tempomask.training.recipe import Recipe
from tempomask.training.run import AveragedRun, batches, parameter_groups
from tempomask.training.start import build_segmenter, load_imagenet_stem
from tempomask.training.teacher import ImageTeacher
from tempomask.training.unroll import ClipModel, encoded_per_object
from tempomask.training.validation import held_out_frames, validate, validate_prompts

if TYPE_CHECKING:
    from accelerate import Accelerator


class StepBatches(Dataset[ClipBatch]):
    """Item i is the batch of step i, of the kind and size that the recipe draws for it.

    library: of the images and video to train on. rank, world: this process and how many there are.
    """

    def __init__(
        self, recipe: Recipe, library: ImageLibrary, rank: int = 0, world: int = 1
    ) -> None:
        self.recipe, self.library, self.rank, self.world = recipe, library, rank, world

    def __getitem__(self, step: int) -> ClipBatch:
        kind, side = self.recipe.drawn(step)
        clips = ClipMixture(
            self.library,
            side,
            kind.frames,
            self.recipe.seed,
            mixture=FRAME_MIXTURE if kind.frames == 1 else None,
            most_objects=kind.objects,
        )
        # No two steps share a clip's number, whatever their kinds are.
        most = max(kind.clips for kind in self.recipe.kinds)
        first = (step * self.world + self.rank) * most
        return collate([clips[first + index] for index in range(kind.clips)])


class Lesson(nn.Module):
    """The segmenter with what is learned from a batch; one module, so that DDP can wrap it."""

    def __init__(self, segmenter: Segmenter, recipe: Recipe, teacher: ImageTeacher | None) -> None:
        super().__init__()
        self.segmenter, self.teacher = segmenter, teacher
        self.rounds, self.weight = recipe.frame_rounds, recipe.teacher
        self.frames = ClipModel(segmenter, recipe.losses, recipe.frame_prompts)
        self.clips = ClipModel(segmenter, recipe.losses, recipe.clip_prompts)

    def forward(
        self, batch: ClipBatch, seed: int, true_memory: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and what is watched; seed: prompts depend on it alone."""
        self.segmenter.config = self.segmenter.config.with_image_size(batch.frames.shape[2])
        clips = self.clips.clips(*batch, seed, true_memory)
        images = clips.images[:, 0]
        watched: dict[str, Tensor] = {}
        if clips.images.shape[1] == 1:
            encoded = self.segmenter.encode(images)
            features = encoded.features
            objects = encoded_per_object(encoded, clips.owner)
            losses: list[Tensor] = []
            for number in range(self.rounds):
                generator = torch.Generator().manual_seed(seed * self.rounds + number)
                losses += self.frames.prompted_frame(objects, clips.targets[:, 0], generator)[1]
        else:
            outputs, watched["iou"], _ = self.clips.unroll(clips)
            losses, features = [outputs.loss], outputs.features[:, 0]
        total = torch.stack(losses).mean()
        if self.teacher is not None:
            told = self.teacher(features, images)
            total, watched["teacher"] = total + self.weight * told, told.detach()
        return total, watched


class Training(AveragedRun[Recipe, ClipBatch, Lesson]):
    """One run.

    data: item i is the batch of step i; shown: single frames to validate prompts on; root: the
    folder of the data.
    """

    def __init__(
        self,
        recipe: Recipe,
        segmenter: Segmenter,
        data: Dataset[ClipBatch],
        shown: list[ClipBatch],
        root: Path,
        out: Path,
        workers: int = 1,
    ) -> None:
        groups = trained_groups(segmenter, recipe)
        lesson = Lesson(segmenter, recipe, _teacher(recipe, segmenter))
        if lesson.teacher is not None:
            head = {"params": list(lesson.teacher.head.parameters()), "lr": recipe.learning_rate}
            groups.append({**head, "weight_decay": 0.0})
        super().__init__(recipe, lesson, out, unused_parameters=True)
        self.data, self.shown, self.root, self.workers = data, shown, root, workers
        self._optimise(lesson, groups)

    @property
    def averaged(self) -> Segmenter:
        """The segmenter of the moving average, at the size of use."""
        segmenter = self.average.segmenter
        segmenter.config = segmenter.config.with_image_size(self.recipe.validation_size)
        return segmenter

    def _batches(self) -> Iterator[ClipBatch]:
        loader = DataLoader(
            self.data,
            batch_size=None,
            sampler=range(self.step, self.recipe.steps),
            num_workers=self.workers,
            prefetch_factor=4 if self.workers else None,
        )
        for batch in loader:
            yield _on_device(batch, self.accelerator)

    def _loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        seed = self.recipe.seed * 1_000_003 + self.step
        return self.model(batch, seed, self.recipe.true_memory(self.step))

    def _kind(self, batch: ClipBatch) -> str:
        return "frames" if batch.frames.shape[1] == 1 else f"clips{batch.frames.shape[1]}"

    def _validate(self) -> dict[str, float]:
        with self.accelerator.autocast():
            shown = [_on_device(batch, self.accelerator) for batch in self.shown]
            scores = validate_prompts(self.averaged, shown)
            tracked = validate(self.averaged, davis_folder(self.root), self.recipe.validation)
        return scores | tracked


def trained_groups(segmenter: Segmenter, recipe: Recipe) -> list[dict[str, Any]]:
    """Optimiser groups; the stem's first stages are frozen, the others learn at a lower rate."""
    if isinstance(segmenter.encoder, HybridEncoder) and recipe.frozen_stem_stages:
        stem = segmenter.encoder.stem
        for module in (stem.first, *stem.stages[: recipe.frozen_stem_stages]):
            module.requires_grad_(False)
    return parameter_groups(
        segmenter,
        recipe.learning_rate,
        recipe.weight_decay,
        lambda name: recipe.stem_rate if name.startswith("encoder.stem.") else 1.0,
    )


def _teacher(recipe: Recipe, segmenter: Segmenter) -> ImageTeacher | None:
    if not recipe.teacher:
        return None
    stem = ConvolutionalStem()
    load_imagenet_stem(stem)
    torch.manual_seed(recipe.seed)
    return ImageTeacher(stem, segmenter.config.hidden_dim)


def _on_device(batch: ClipBatch, accelerator: Accelerator | OneDevice) -> ClipBatch:
    return ClipBatch(*(x.to(accelerator.device, non_blocking=True) for x in batch))


def clip_batches(
    clips: Dataset[Any], accelerator: Accelerator | OneDevice, size: int, span: range, workers: int
) -> Iterator[ClipBatch]:
    """Batches of clips on the device, for the steps in span; shared out as `batches` says."""
    try:
        for batch in batches(clips, accelerator, size, span, workers, collate):
            yield _on_device(batch, accelerator)
    except InputError as error:  # before which torch puts the traceback of the worker
        raise InputError(str(error).rstrip().rpartition("InputError: ")[2]) from None


def davis_folder(root: Path) -> Path:
    """Where the training data keeps most of its video."""
    return root / DAVIS


def train(
    root: Path,
    out: Path,
    recipe: Recipe | None = None,
    workers: int = 1,
    start: Path | None = None,
) -> Segmenter:
    """Train by the recipe on the data under root, resuming from out; returns the averaged model.

    root: see `ImageLibrary`. out receives last.pt, validation.jsonl, log/ and, at the end, the
    weights of the moving average as model.safetensors. start: weights of a nano to go on from
    wherever they fit. Raises InputError for data or weights that are missing, and for a folder out
    that holds a run with other settings or from other weights.
    """
    from tempomask.weights import load_segmenter, save_segmenter

    recipe = recipe or Recipe()
    former = None
    if start is not None:
        if not start.is_file():
            raise InputError(f"no weights to start from at {start}; give a .safetensors file")
        former = load_segmenter(recipe.model, start)
        with start.open("rb") as file:
            recipe = replace(recipe, start=hashlib.file_digest(file, "sha256").hexdigest())
    library = ImageLibrary(root, recipe.validation)
    segmenter = build_segmenter(recipe, former)
    shown = held_out_frames(root, recipe.validation_size)
    data = StepBatches(recipe, library)
    training = Training(recipe, segmenter, data, shown, root, out, workers)
    data.rank, data.world = training.accelerator.process_index, training.accelerator.num_processes
    training.complete()
    save_segmenter(training.averaged, out / "model.safetensors")
    return training.averaged
