"""What all trainings share: steps, checkpoint, log and scores, on accelerate.

A training says which batches it takes, what a batch's loss is and what a checkpoint holds. What a
step does depends on the seed and the step alone, so a resumed run continues as the uninterrupted
one would have.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from tempomask.errors import InputError, warn
from tempomask.files import FolderLock, write_json
from tempomask.training.checkpoint import load_checkpoint, save_checkpoint
from tempomask.training.one_device import OneDevice

if TYPE_CHECKING:
    from accelerate import Accelerator


@dataclass(frozen=True)
class RunRecipe:
    """What every training sets; a kind of training adds its own settings.

    Attributes:
        steps: Optimiser steps.
        warmup_steps: First steps, over which the learning rate rises linearly.
        decay_steps: Last steps, over which it falls to zero; between the two it is constant. A run
            can be prolonged: `steps` and `decay_steps` may differ when it is resumed.
        clip_norm: Largest norm of a step's gradient.
        seed: Of data, of what is drawn in a step, and of fresh weights.
        validate_every: Steps from one validation to the next.
        save_every: Steps from one checkpoint to the next.
    """

    steps: int = 1000
    warmup_steps: int = 0
    decay_steps: int = 0
    clip_norm: float = 1.0
    seed: int = 1
    validate_every: int = 250
    save_every: int = 100

    def rate(self, step: int) -> float:
        """What the learning rates of a step are multiplied by; the decay is 1 - sqrt."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        decayed = step - (self.steps - self.decay_steps)
        return 1.0 if decayed < 0 else 1.0 - math.sqrt((decayed + 1) / (self.decay_steps + 1))

    def with_overrides(self, **values: object) -> Self:
        """The recipe with the given fields replaced; None keeps a field. InputError if unknown."""
        unknown = sorted(set(values) - {field.name for field in fields(self)})
        if unknown:
            raise InputError(f"the recipe has no setting {unknown[0]!r}")
        given: dict[str, Any] = {k: v for k, v in values.items() if v is not None}
        return replace(self, **given)


@dataclass(frozen=True)
class AveragedRecipe(RunRecipe):
    """Of a run that keeps a moving average of its weights.

    Attributes:
        average_decay: Of the average, which is validated and exported; 0 exports the weights.
    """

    average_decay: float = 0.998


RecipeT = TypeVar("RecipeT", bound=RunRecipe)
AveragedRecipeT = TypeVar("AveragedRecipeT", bound=AveragedRecipe)
Batch = TypeVar("Batch")
Core = TypeVar("Core", bound=nn.Module)
Groups = Sequence[Mapping[str, Any]]


@contextmanager
def denormals_flushed() -> Iterator[None]:
    """Vanishing gradients end in denormal numbers, which slow a CPU tenfold and carry nothing."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class Run(ABC, Generic[RecipeT, Batch]):
    """One training: the model, the optimiser, how many steps they took, and where they are kept.

    A subclass calls `_optimise` before the first step.

    Attributes:
        recipe: Of the run.
        out: Folder that receives last.pt, validation.jsonl and log/.
        step: How many steps were taken.
    """

    model: nn.Module

    def __init__(self, recipe: RecipeT, out: Path, unused_parameters: bool = False) -> None:
        """Begin at step 0; with unused_parameters, some may get no gradient in some steps."""
        self.recipe, self.out = recipe, out
        self.accelerator = make_accelerator(unused_parameters)
        self.step = 0

    @property
    def checkpoint(self) -> Path:
        """The last one."""
        return self.out / "last.pt"

    def resume(self) -> None:
        """Go on from the last checkpoint, if there is one; InputError if of another recipe."""
        if self.checkpoint.exists():
            self._restore(load_checkpoint(self.checkpoint, self.recipe))

    def complete(self) -> dict[str, float]:
        """Go on from where the last run in this folder stopped; recipe.json says how it was run."""
        self.out.mkdir(parents=True, exist_ok=True)
        lock = FolderLock(self.out) if self.accelerator.is_main_process else None
        try:
            self.resume()
            write_json(self.out / "recipe.json", asdict(self.recipe))
            return self.run()
        finally:
            if lock is not None:
                lock.release()

    @denormals_flushed()
    def run(self) -> dict[str, float]:
        """Train to the recipe's last step; returns the last validation scores."""
        recipe, scores = self.recipe, {}
        random.seed(recipe.seed)
        np.random.seed(recipe.seed)
        torch.manual_seed(recipe.seed)
        main = self.accelerator.is_main_process
        log = _summary_writer(self.out / "log") if main else None
        with step_progress(recipe.steps, self.step, main) as advance:
            for batch in self._batches():
                watched = self._train_step(batch)
                self.step += 1
                advance(watched)
                self._note(log, self._kind(batch), watched)
                last = self.step == recipe.steps
                if main and (last or self.step % recipe.save_every == 0):
                    save_checkpoint(self.checkpoint, recipe, self.step, self._state())
                if main and (last or self.step % recipe.validate_every == 0):
                    scores = self._validate()
                    self._note(log, "validation", scores)
                    if scores:
                        append_scores(self.out, self.step, scores)
        if log is not None:
            log.close()
        return scores

    @abstractmethod
    def _batches(self) -> Iterable[Batch]:
        """The batches of the steps that are left, on the device."""

    @abstractmethod
    def _loss(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to be lowered in this step, and others to watch."""

    @abstractmethod
    def _state(self) -> dict[str, Any]:
        """What a checkpoint holds beside step and recipe."""

    @abstractmethod
    def _restore(self, saved: dict[str, Any]) -> None:
        """Take over a checkpoint's step and state."""

    @abstractmethod
    def _validate(self) -> dict[str, float]:
        """Scores at this step; empty for none."""

    def _kind(self, batch: Batch) -> str:
        """What the losses of the batch are called in the log."""
        return "train"

    def _optimise(
        self, model: nn.Module, groups: Groups, betas: tuple[float, float] = (0.9, 0.98)
    ) -> None:
        """Train the groups of parameters with a fresh optimiser from now on; model has the loss."""
        self.base_rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW([dict(group) for group in groups], betas=betas)
        self.accelerator.free_memory()
        self.model, self.optimizer = self.accelerator.prepare(model, optimizer)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        """One step down the gradient; returns what is watched."""
        started = time.perf_counter()
        factor = self.recipe.rate(self.step)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.model.train()
        parts, sums = self._parts(batch), defaultdict[str, float](float)
        for number, part in enumerate(parts, 1):
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                with self.accelerator.autocast():
                    loss, others = self._loss(part)
                self.accelerator.backward(loss / len(parts))
            for name, value in {"loss": loss, **others}.items():
                sums[name] += value.item() / len(parts)
        return {
            **sums,
            "gradient": self._descend(),
            "rate": factor,
            "seconds": time.perf_counter() - started,
        }

    def _parts(self, batch: Batch) -> Sequence[Batch]:
        """What is computed at a time; gradients are of the mean loss of all."""
        return [batch]

    def _descend(self) -> float:
        """One step of the optimiser; returns the gradient's norm."""
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        # One bad batch must not end a run of hours: a non-finite gradient is left out.
        if norm is None or torch.isfinite(torch.as_tensor(norm)):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm) if norm is not None else 0.0

    def _note(self, log: Any, kind: str, values: Mapping[str, float]) -> None:
        if log is not None:
            for name, value in values.items():
                log.add_scalar(f"{kind}/{name}", value, self.step)


class AveragedRun(Run[AveragedRecipeT, Batch], Generic[AveragedRecipeT, Batch, Core]):
    """A run that also keeps a moving average of the weights, which is validated and exported.

    Attributes:
        core: What is trained.
        average: Of its weights, in evaluation mode on the run's device.
    """

    def __init__(
        self, recipe: AveragedRecipeT, core: Core, out: Path, unused_parameters: bool = False
    ) -> None:
        super().__init__(recipe, out, unused_parameters)
        self.core = core
        self.average = deepcopy(core).requires_grad_(False).eval().to(self.accelerator.device)

    def _train_step(self, batch: Batch) -> dict[str, float]:
        watched = super()._train_step(batch)
        move_average(self.average, self.core, self.step, self.recipe.average_decay)
        return watched

    def _state(self) -> dict[str, Any]:
        return {
            "model": self.core.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def _restore(self, saved: dict[str, Any]) -> None:
        self.core.load_state_dict(saved["model"])
        self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]


def batches(
    items: Dataset[Any],
    accelerator: Accelerator | OneDevice,
    size: int,
    span: range,
    workers: int,
    collate: Callable[[list[Any]], Any],
) -> DataLoader[Any]:
    """Batches of `size` items for the steps in span; process r of w takes every w-th item."""
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


def parameter_groups(
    model: nn.Module,
    rate: float,
    weight_decay: float,
    share: Callable[[str], float] = lambda name: 1.0,
    decays: Callable[[str, nn.Parameter], bool] = lambda name, parameter: parameter.ndim > 1,
) -> list[dict[str, Any]]:
    """Optimiser groups of what is trained.

    Args:
        model: Whose parameters they are.
        rate: Learning rate.
        weight_decay: Of what decays.
        share: Of the rate, at which a name learns.
        decays: Whether a parameter does; matrices by default.
    """
    groups: defaultdict[tuple[float, bool], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups[share(name), decays(name, parameter)].append(parameter)
    return [
        {"params": parameters, "lr": rate * part, "weight_decay": weight_decay if fades else 0.0}
        for (part, fades), parameters in groups.items()
    ]


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


def make_accelerator(unused_parameters: bool = False) -> Accelerator | OneDevice:
    """bfloat16 by autocast. unused_parameters: some may get no gradient in some steps.

    Without accelerate a run takes one device; InputError if it was launched for several.
    """
    try:
        from accelerate import Accelerator, DistributedDataParallelKwargs
    except ImportError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return OneDevice()
        raise InputError(
            "training on several devices needs accelerate: pip install 'tempomask[train]'"
        ) from error
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=unused_parameters)]
    return Accelerator(mixed_precision="bf16", kwargs_handlers=list(handlers))


def _summary_writer(folder: Path) -> Any:
    """TensorBoard's, None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        warn("no TensorBoard log is written: pip install 'tempomask[train]'")
        return None
    return SummaryWriter(str(folder))


@contextmanager
def step_progress(
    total: int, start: int, visible: bool
) -> Iterator[Callable[[Mapping[str, float]], None]]:
    """A progress bar on the main process; what it gives is called with a step's numbers."""
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

    from tempomask.progress import Bars

    columns = (
        TextColumn("step {task.completed}/{task.total}"),
        BarColumn(),
        TextColumn("{task.description}"),
        TimeRemainingColumn(),
    )
    with Bars(*columns, visible=visible) as bar:
        task = bar.add_task("", total=total, completed=start)

        def advance(watched: Mapping[str, float]) -> None:
            iou = f"  IoU {watched['iou']:.3f}" if "iou" in watched else ""
            text = f"loss {watched['loss']:.3f}{iou}  {watched['seconds']:.2f} s"
            bar.update(task, advance=1, description=text)

        yield advance
