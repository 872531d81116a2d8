"""The training loop: one command, resumable, seeded, validated, on accelerate.

The data and prompts of a step depend only on the seed and the step, so a resumed run continues as
the uninterrupted one would have.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tempomask.errors import InputError
from tempomask.media.atomic import write_json
from tempomask.training.checkpoint import load_checkpoint, save_checkpoint
from tempomask.training.recipe import Recipe, build_segmenter, parameter_groups
from tempomask.training.unroll import ClipModel
from tempomask.training.validation import validate

if TYPE_CHECKING:
    from accelerate import Accelerator

    from tempomask.models.segmenter import Segmenter


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Vanishing gradients end in denormal numbers, which slow a CPU tenfold and carry nothing."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Training:
    """One run: the model, its moving average, the optimiser and where they are kept.

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
        self.recipe, self.clips, self.root, self.out, self.workers = (
            recipe,
            clips,
            root,
            out,
            workers,
        )
        self.accelerator = make_accelerator()
        self.segmenter = build_segmenter(recipe)
        if initial is not None:
            self.segmenter.load_state_dict(initial)
        groups = parameter_groups(self.segmenter, recipe)
        self.base_rates = [float(g["lr"]) for g in groups]  # type: ignore[arg-type]
        self.average = deepcopy(self.segmenter).requires_grad_(False)
        model = ClipModel(self.segmenter, recipe.losses, recipe.prompts)
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)
        self.average.to(self.accelerator.device)
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        return self.out / "last.pt"

    def resume(self) -> None:
        """Go on from the last checkpoint of the output folder, if there is one."""
        if not self.checkpoint.exists():
            return
        saved = load_checkpoint(self.checkpoint, self.recipe)
        self.segmenter.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    @denormals_flushed()
    def run(self) -> dict[str, float]:
        """Train to the recipe's last step; returns the last validation scores."""
        from accelerate.utils import set_seed
        from torch.utils.tensorboard import SummaryWriter

        set_seed(self.recipe.seed)
        main = self.accelerator.is_main_process
        log = SummaryWriter(str(self.out / "log")) if main else None
        scores: dict[str, float] = {}
        with StepProgress(self.recipe.steps, self.step, main) as advance:
            for frames, masks in self._batches():
                watched = self._train_step(frames, masks)
                self.step += 1
                advance(watched)
                if log is not None:
                    for name, value in watched.items():
                        log.add_scalar(f"train/{name}", value, self.step)
                if self.step % self.recipe.save_every == 0 or self.step == self.recipe.steps:
                    self._save()
                if self.step % self.recipe.validate_every == 0 or self.step == self.recipe.steps:
                    scores = self._validate(log)
        if log is not None:
            log.close()
        return scores

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        recipe = self.recipe
        span = range(self.step, recipe.steps)
        return clip_batches(self.clips, self.accelerator, recipe.batch_size, span, self.workers)

    def _train_step(self, frames: Tensor, masks: Tensor) -> dict[str, float]:
        recipe = self.recipe
        started = time.perf_counter()
        factor = recipe.rate(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.model.train()
        seed = recipe.seed * 1_000_003 + self.step
        with self.accelerator.autocast():
            losses = self.model(frames, masks, seed, recipe.true_memory(self.step))
        norm = descend(self.accelerator, self.model, self.optimizer, losses.total, recipe.clip_norm)
        move_average(self.average, self.segmenter, self.step, recipe.average_decay)
        return {
            "loss": losses.total.item(),
            "iou": losses.iou.item(),
            "object_score": losses.object_score.item(),
            "gradient": norm,
            "rate": factor,
            "seconds": time.perf_counter() - started,
        }

    def _save(self) -> None:
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.segmenter.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.checkpoint, self.recipe, self.step, state)

    def _validate(self, log: Any) -> dict[str, float]:
        if not self.accelerator.is_main_process:
            return {}
        with self.accelerator.autocast():
            scores = validate(self.average, davis_folder(self.root), self.recipe.validation)
        for name, value in scores.items():
            log.add_scalar(f"validation/{name}", value, self.step)
        append_scores(self.out, self.step, scores)
        return scores


def clip_batches(
    clips: Dataset[Any], accelerator: Accelerator, size: int, span: range, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of `size` clips for the steps in span; process r of w takes every w-th clip."""
    from tempomask.data.clips import collate

    for frames, masks in batches(clips, accelerator, size, span, workers, collate):
        device = accelerator.device
        yield frames.to(device, non_blocking=True), masks.to(device, non_blocking=True)


def batches(
    items: Dataset[Any],
    accelerator: Accelerator,
    size: int,
    span: range,
    workers: int,
    collate: Callable[[list[Any]], Any],
) -> DataLoader[Any]:
    """Batches on the CPU for the steps in span, shared out as `clip_batches` says."""
    world, rank = accelerator.num_processes, accelerator.process_index
    indices = range(span.start * size * world, span.stop * size * world)
    return DataLoader(
        items,
        batch_size=size,
        sampler=list(indices)[rank::world],
        collate_fn=collate,
        num_workers=workers,
        prefetch_factor=4 if workers else None,
    )


def descend(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, loss: Tensor, clip_norm: float
) -> float:
    """One step of the optimiser down the gradient of the loss; returns the gradient's norm."""
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), clip_norm)
    # One bad batch must not end a run of hours: a step with a non-finite gradient is left out.
    if norm is None or torch.isfinite(torch.as_tensor(norm)):
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(norm) if norm is not None else 0.0


@torch.no_grad()
def move_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the average of a model's weights; in the first steps it follows faster than decay."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)


def append_scores(out: Path, step: int, scores: dict[str, float]) -> None:
    """Add a line with a step's scores to validation.jsonl of the folder of a run."""
    line = {"step": step, **{name: round(value, 4) for name, value in scores.items()}}
    with (out / "validation.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def make_accelerator(unused_parameters: bool = False) -> Accelerator:
    """bfloat16 by autocast. unused_parameters: some may get no gradient in some steps."""
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        raise InputError("training needs accelerate: pip install 'tempomask[train]'") from error
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)]
    return Accelerator(mixed_precision="bf16", kwargs_handlers=list(handlers))


def davis_folder(root: Path) -> Path:
    """Where the training data keeps its video."""
    return root / "davis16-train-256"


class StepProgress:
    """A progress bar on the main process; calling it shows one more step."""

    def __init__(self, total: int, start: int, visible: bool) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("step {task.completed}/{task.total}"),
            BarColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
        )
        self.bar = Progress(*columns, disable=not visible, refresh_per_second=1)
        self.task = self.bar.add_task("", total=total, completed=start)

    def __enter__(self) -> Self:
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()

    def __call__(self, watched: dict[str, float]) -> None:
        iou = f"  IoU {watched['iou']:.3f}" if "iou" in watched else ""
        text = f"loss {watched['loss']:.3f}{iou}  {watched['seconds']:.2f} s"
        self.bar.update(self.task, advance=1, description=text)


def train(root: Path, out: Path, recipe: Recipe | None = None, workers: int = 1) -> Segmenter:
    """Train by the recipe on the data under root, resuming from out; returns the averaged model.

    root holds davis16-train-256 and stills-256. out receives last.pt, validation.jsonl, log/ and,
    at the end, the weights of the moving average as model.safetensors.
    """
    from tempomask.data.clips import ClipMixture
    from tempomask.weights import save_segmenter

    recipe = recipe or Recipe()
    out.mkdir(parents=True, exist_ok=True)
    clips = ClipMixture(
        root,
        image_size=recipe.image_size,
        num_frames=recipe.num_frames,
        seed=recipe.seed,
        held_out=recipe.validation,
    )
    write_json(out / "recipe.json", asdict(recipe))
    training = Training(recipe, clips, root, out, workers)
    training.resume()
    training.run()
    save_segmenter(training.average, out / "model.safetensors")
    return training.average
