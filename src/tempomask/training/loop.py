"""The first stage of nano's training: tracking masks over clips."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.utils.data import Dataset

from tempomask.files import write_json
from tempomask.models.segmenter import Segmenter
from tempomask.training.recipe import Recipe, build_segmenter, parameter_groups
from tempomask.training.run import AveragedRun, batches
from tempomask.training.unroll import ClipModel
from tempomask.training.validation import validate

if TYPE_CHECKING:
    from accelerate import Accelerator

ClipBatch = tuple[Tensor, Tensor]


class Training(AveragedRun[Recipe, ClipBatch, Segmenter]):
    """One run.

    clips: a dataset whose item i is a Clip that depends on i alone; root: the folder of the data.
    """

    def __init__(
        self,
        recipe: Recipe,
        clips: Dataset[Any],
        root: Path,
        out: Path,
        workers: int = 1,
        initial: dict[str, Tensor] | None = None,
    ) -> None:
        segmenter = build_segmenter(recipe)
        if initial is not None:
            segmenter.load_state_dict(initial)
        groups = parameter_groups(segmenter, recipe)
        super().__init__(recipe, segmenter, out)
        self.clips, self.root, self.workers = clips, root, workers
        self._optimise(ClipModel(segmenter, recipe.losses, recipe.prompts), groups)

    def _batches(self) -> Iterator[ClipBatch]:
        recipe = self.recipe
        span = range(self.step, recipe.steps)
        return clip_batches(self.clips, self.accelerator, recipe.batch_size, span, self.workers)

    def _loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        seed = self.recipe.seed * 1_000_003 + self.step
        losses = self.model(*batch, seed, self.recipe.true_memory(self.step))
        return losses.total, {"iou": losses.iou, "object_score": losses.object_score}

    def _validate(self) -> dict[str, float]:
        with self.accelerator.autocast():
            return validate(self.average, davis_folder(self.root), self.recipe.validation)


def clip_batches(
    clips: Dataset[Any], accelerator: Accelerator, size: int, span: range, workers: int
) -> Iterator[ClipBatch]:
    """Batches of clips on the device, for the steps in span; shared out as `batches` says."""
    from tempomask.data.clips import collate

    for frames, masks in batches(clips, accelerator, size, span, workers, collate):
        device = accelerator.device
        yield frames.to(device, non_blocking=True), masks.to(device, non_blocking=True)


def davis_folder(root: Path) -> Path:
    """Where the training data keeps its video."""
    return root / "davis16-train-256"


def train(root: Path, out: Path, recipe: Recipe | None = None, workers: int = 1) -> Segmenter:
    """Train by the recipe on the data under root, resuming from out; returns the averaged model.

    root holds davis16-train-256 and stills-256. out receives last.pt, validation.jsonl, log/ and,
    at the end, the weights of the moving average as model.safetensors.
    """
    from tempomask.data.clips import ClipMixture
    from tempomask.weights import save_segmenter

    recipe = recipe or Recipe()
    clips = ClipMixture(
        root,
        image_size=recipe.image_size,
        num_frames=recipe.num_frames,
        seed=recipe.seed,
        held_out=recipe.validation,
    )
    out.mkdir(parents=True, exist_ok=True)
    training = Training(recipe, clips, root, out, workers)
    training.resume()
    write_json(out / "recipe.json", asdict(recipe))
    training.run()
    save_segmenter(training.average, out / "model.safetensors")
    return training.average
