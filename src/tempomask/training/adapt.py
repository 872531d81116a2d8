"""Adaptation training: one command for RDS and every method that it is compared with.

Resumable, seeded and validated like `loop.py`, whose data and losses it uses: clips, prompts and
routing draws of a step depend only on the seed and the step. Only what the method asked for is
trained; the checkpoint holds that alone.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tempomask.adaptation.adapter_file import base_sample, save_adapter
from tempomask.adaptation.method import Method, Prepared
from tempomask.errors import InputError
from tempomask.media.atomic import make_folder
from tempomask.training.adaptation_data import adaptation_data
from tempomask.training.calibration import SequenceMeasure
from tempomask.training.checkpoint import load_checkpoint, save_checkpoint
from tempomask.training.loop import (
    StepProgress,
    clip_batches,
    denormals_flushed,
    make_accelerator,
)
from tempomask.training.losses import LossWeights
from tempomask.training.prompts import PromptSampling
from tempomask.training.recipe import schedule
from tempomask.training.unroll import ClipModel

if TYPE_CHECKING:
    from tempomask.models.segmenter import Segmenter


@dataclass(frozen=True)
class AdaptRecipe:
    """Training of a method on clips.

    model, method, settings: what is adapted and how; a run is only resumed with the same.
    steps: optimiser steps; batch_size: clips a step and process; num_frames: frames a clip.
    warmup_steps, decay_steps: of the schedule that scales every learning rate of the method.
    """

    model: str
    method: str = "rds"
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 1024
    steps: int = 2000
    batch_size: int = 4
    num_frames: int = 4
    warmup_steps: int = 50
    decay_steps: int = 600
    clip_norm: float = 1.0
    seed: int = 1
    validate_every: int = 250
    save_every: int = 100
    losses: LossWeights = field(default_factory=LossWeights)
    prompts: PromptSampling = field(default_factory=PromptSampling)

    def __post_init__(self) -> None:
        for name, least in (("steps", 1), ("batch_size", 1), ("num_frames", 2)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be {least} or more, got {getattr(self, name)}")


def phases(steps: int) -> tuple[int, int]:
    """How many steps a run of so many warms up, and how many it decays."""
    return min(50, max(1, steps // 10)), max(1, steps * 3 // 10)


class Adaptation:
    """One run: a method on a network, the optimiser, and where they are kept.

    segmenter: the base, with its weights; it is changed. clips: item i is a Clip that depends on i
    alone. measure: calibration data for the method, from sequences that it may train on.
    validation: of sequences held out, None for no validation.
    """

    def __init__(
        self,
        recipe: AdaptRecipe,
        method: Method,
        segmenter: Segmenter,
        clips: Dataset[Any],
        out: Path,
        measure: SequenceMeasure,
        validation: SequenceMeasure | None = None,
        workers: int = 1,
    ) -> None:
        self.recipe, self.method, self.clips, self.out = recipe, method, clips, out
        self.validation, self.workers = validation, workers
        self.accelerator = make_accelerator(unused_parameters=True)
        self._name, self._sample = segmenter.config.name, base_sample(segmenter)
        self.step = 0
        # Names of everything that was trained so far, in whatever phase of the method.
        self._touched: set[str] = set()
        saved = self._saved()
        segmenter = segmenter.to(self.accelerator.device)
        self._take(method.prepare(segmenter, measure, None if saved is None else saved["method"]))
        if saved is not None:
            self._restore(saved)

    @property
    def work(self) -> Path:
        """Where checkpoint, log and scores are kept: apart from the adapter, which is small."""
        return self.out / "training"

    @property
    def checkpoint(self) -> Path:
        return self.work / "last.pt"

    @property
    def trained_parameters(self) -> int:
        """How many parameters are trained."""
        return sum(p.numel() for p in self._trained().values())

    def _take(self, prepared: Prepared) -> None:
        """Train what the method has prepared, with a fresh optimiser."""
        self.prepared = prepared
        recipe = self.recipe
        self.clip_model = ClipModel(
            prepared.segmenter, recipe.losses, recipe.prompts, prepared.policy, self.method
        )
        self._touched |= set(self._trained())
        groups = [{**group, "params": list(group["params"])} for group in prepared.groups]
        if not any(group["params"] for group in groups):
            raise InputError(f"the method {self.method.name} has nothing to train")
        self.base_rates = [float(group["lr"]) for group in groups]
        optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
        self.model, self.optimizer = self.accelerator.prepare(self.clip_model, optimizer)

    def _trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.clip_model.named_parameters() if p.requires_grad}

    def _changed(self, names: set[str]) -> dict[str, Tensor]:
        """Parameters of these names, which earlier phases may have trained, and those trained now.

        Names that a method has done away with since are left out.
        """
        parameters = self.clip_model.named_parameters()
        return {name: p for name, p in parameters if p.requires_grad or name in names}

    def _saved(self) -> dict[str, Any] | None:
        """The last checkpoint of the output folder; InputError if it is of another recipe."""
        if not self.checkpoint.exists():
            return None
        return load_checkpoint(self.checkpoint, self.recipe)

    def _restore(self, saved: dict[str, Any]) -> None:
        values = saved["trained"]
        missing = [name for name in self._trained() if name not in values]
        if missing:
            raise InputError(
                f"{self.checkpoint} lacks {missing[0]}; it comes from another version of the method"
                f" {self.method.name}: choose another output folder"
            )
        with torch.no_grad():
            for name, parameter in self._changed(set(values)).items():
                parameter.copy_(values[name])
        policy = self.prepared.policy
        if isinstance(policy, nn.Module):
            policy.load_state_dict(saved["policy"])
        self._touched |= set(values)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]

    @denormals_flushed()
    def run(self) -> dict[str, float]:
        """Train to the recipe's last step; returns the last validation scores."""
        from torch.utils.tensorboard import SummaryWriter

        recipe = self.recipe
        main = self.accelerator.is_main_process
        log = SummaryWriter(str(self.work / "log")) if main else None
        scores: dict[str, float] = {}
        span = range(self.step, recipe.steps)
        batches = clip_batches(self.clips, self.accelerator, recipe.batch_size, span, self.workers)
        with StepProgress(recipe.steps, self.step, main) as advance:
            for frames, masks in batches:
                changed = self.method.on_step(self.step)
                if changed is not None:
                    self._take(changed)
                watched = self._train_step(frames, masks)
                self.step += 1
                advance(watched)
                for name, value in watched.items() if log is not None else ():
                    log.add_scalar(f"train/{name}", value, self.step)  # type: ignore[union-attr]
                last = self.step == recipe.steps
                if main and (last or self.step % recipe.save_every == 0):
                    self._save()
                if main and (last or self.step % recipe.validate_every == 0):
                    scores = self._validate()
        if log is not None:
            log.close()
        return scores

    def _train_step(self, frames: Tensor, masks: Tensor) -> dict[str, float]:
        recipe, policy = self.recipe, self.prepared.policy
        started = time.perf_counter()
        factor = schedule(self.step, recipe.steps, recipe.warmup_steps, recipe.decay_steps)
        for group, rate in zip(self.optimizer.param_groups, self.base_rates, strict=True):
            group["lr"] = rate * factor
        self.model.train()
        seed = recipe.seed * 1_000_003 + self.step
        reseed = getattr(policy, "reseed", None)
        if reseed is not None:
            # Processes route their clips by draws of their own.
            reseed(seed + 7919 * self.accelerator.process_index)
        with self.accelerator.autocast():
            losses = self.model(frames, masks, seed, 0.0, self.step)
        self.accelerator.backward(losses.total)
        norm = self.accelerator.clip_grad_norm_(self._trained().values(), recipe.clip_norm)
        # One bad batch must not end a run of hours: a step with a non-finite gradient is left out.
        if norm is None or torch.isfinite(torch.as_tensor(norm)):
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {
            "loss": losses.total.item(),
            "iou": losses.iou.item(),
            "extra": losses.extra.item(),
            "blocks": losses.blocks.item(),
            "gradient": float(norm) if norm is not None else 0.0,
            "rate": factor,
            "seconds": time.perf_counter() - started,
        }

    def _save(self) -> None:
        policy = self.prepared.policy
        state = {
            "trained": {name: p.detach() for name, p in self._changed(self._touched).items()},
            "policy": policy.state_dict() if isinstance(policy, nn.Module) else {},
            "method": self.method.state(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_checkpoint(self.checkpoint, self.recipe, self.step, state)

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        rows = self.validation.scores(self.prepared.segmenter, self.prepared.policy)
        scores = {**rows, "mean": sum(rows.values()) / len(rows)}
        line = {"step": self.step, **{name: round(value, 4) for name, value in scores.items()}}
        with (self.work / "validation.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        return scores

    def export(self) -> Path:
        """Write the adapter into the output folder, which is then an adapter."""
        return save_adapter(
            self.out, self.method.name, self._name, self._sample, self.method.export()
        )


def start_adaptation(
    segmenter: Segmenter,
    root: Path,
    out: Path,
    method: Method,
    recipe: AdaptRecipe,
    held_out: Sequence[str] | None = None,
    workers: int = 1,
) -> Adaptation:
    """Everything up to the first step: data read, blocks measured, the last checkpoint loaded.

    root, held_out: as of `adaptation_data`. Then call `run` and `export`. Raises InputError for
    data that cannot be used, and for a folder `out` that holds a run with other settings.
    """
    out = make_folder(out)
    data = adaptation_data(root, recipe.image_size, recipe.num_frames, recipe.seed, held_out)
    device = make_accelerator().device
    side = recipe.image_size
    precision = torch.bfloat16  # as in training
    measure = SequenceMeasure(data.measured, side, device, dtype=precision)
    validation = None
    if data.held_out:
        validation = SequenceMeasure(data.held_out, side, device, dtype=precision)
    return Adaptation(recipe, method, segmenter, data.clips, out, measure, validation, workers)
