"""Adaptation training: one command for RDS and every method that it is compared with.

The objective (`objectives.py`) says how clips become losses and how a network is scored. Clips,
prompts and routing draws of a step depend only on the seed and the step. Only what the method asked
for is trained; the checkpoint holds that alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tempomask.adaptation.adapter_file import base_sample, same_base, save_adapter
from tempomask.adaptation.method import Method, Prepared
from tempomask.baselines.alignment import aligned
from tempomask.baselines.settings import AlignmentConfig
from tempomask.errors import InputError, check_least
from tempomask.files import make_folder
from tempomask.training.adaptation_data import adaptation_data
from tempomask.training.calibration import SequenceMeasure
from tempomask.training.checkpoint import REPORTING, load_checkpoint
from tempomask.training.loop import ClipBatch, clip_batches
from tempomask.training.objectives import Objective, TrackingObjective
from tempomask.training.run import Run, RunRecipe, make_accelerator

if TYPE_CHECKING:
    from tempomask.models.encoder import RoutedNetwork


@dataclass(frozen=True)
class AdaptRecipe(RunRecipe):
    """Training of a method on clips; the schedule scales every learning rate of the method.

    Attributes:
        model: That is adapted; a run is only resumed with the same, and the same method.
        method: By name.
        settings: Of the method.
        image_size: Side of the network's input.
        batch_size: Clips a step and process.
        num_frames: Frames a clip.
        most_objects: Objects a clip, at most; the router sees the union of their masks, as in use.
        objective: What for: how clips are followed, and with which prompts and losses.
        alignment: To the untouched network, the same for every method.
    """

    model: str = "nano"
    method: str = "rds"
    settings: Mapping[str, Any] = field(default_factory=dict)
    image_size: int = 1024
    steps: int = 2000
    batch_size: int = 4
    num_frames: int = 8
    most_objects: int = 3
    warmup_steps: int = 50
    decay_steps: int = 600
    objective: Objective = field(default_factory=TrackingObjective)
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)

    def __post_init__(self) -> None:
        check_least(self, steps=1, batch_size=1, num_frames=2, most_objects=1)


def phases(steps: int) -> tuple[int, int]:
    """How many steps a run of so many warms up, and how many it decays."""
    return min(50, max(1, steps // 10)), max(1, steps * 3 // 10)


class Adaptation(Run[AdaptRecipe, ClipBatch]):
    """One run: a method on a network. Its adapter comes into `folder`, its checkpoint beside it.

    network: the base, with its weights; it is changed. clips: item i is a Clip that depends on i
    alone. measure: calibration data for the method, from sequences that it may train on.
    validation: of sequences held out, None for no validation. sequences: names by what they are
    for; a run is only resumed with the same, and with the same weights.
    """

    def __init__(
        self,
        recipe: AdaptRecipe,
        method: Method,
        network: RoutedNetwork,
        clips: Dataset[Any],
        folder: Path,
        measure: SequenceMeasure,
        validation: SequenceMeasure | None = None,
        workers: int = 1,
        sequences: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        # Apart from the adapter, which is small.
        super().__init__(recipe, folder / "training", unused_parameters=True)
        self.method, self.clips, self.folder = aligned(method, recipe.alignment), clips, folder
        self.validation, self.workers = validation, workers
        self._name, self._sample = network.name, base_sample(network)
        self._sequences = {what: list(names) for what, names in (sequences or {}).items()}
        # Names of everything that was trained so far, in whatever phase of the method.
        self._touched: set[str] = set()
        saved = None
        if self.checkpoint.exists():
            # Phases of methods lie where the number of steps puts them: it stays.
            saved = load_checkpoint(self.checkpoint, recipe, REPORTING)
            self._check_origin(saved)
        network = network.to(self.accelerator.device)
        self._take(
            self.method.prepare(network, measure, None if saved is None else saved["method"])
        )
        if saved is not None:
            self._restore(saved)

    @property
    def trained_parameters(self) -> int:
        """How many parameters are trained."""
        return sum(p.numel() for p in self._trained().values())

    def _take(self, prepared: Prepared) -> None:
        """Train what the method has prepared, with a fresh optimiser."""
        self.prepared = prepared
        self.clip_model = self.recipe.objective.clip_model(prepared, self.method)
        self._touched |= set(self._trained())
        groups = [{**group, "params": list(group["params"])} for group in prepared.groups]
        if not any(group["params"] for group in groups):
            raise InputError(f"the method {self.method.name} has nothing to train")
        self._optimise(self.clip_model, groups)

    def _trained(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.clip_model.named_parameters() if p.requires_grad}

    def _changed(self, names: set[str]) -> dict[str, Tensor]:
        """Parameters of these names, which earlier phases may have trained, and those trained now.

        Names that a method has done away with since are left out.
        """
        parameters = self.clip_model.named_parameters()
        return {name: p for name, p in parameters if p.requires_grad or name in names}

    def _check_origin(self, saved: dict[str, Any]) -> None:
        """InputError for a run that was begun with other weights or sequences.

        Checkpoints of earlier versions do not say.
        """
        if not same_base(self._sample, saved.get("base", self._sample)):
            raise InputError(
                f"{self.checkpoint} was begun with other weights of {self._name}; give the same, or"
                " another output folder"
            )
        for what, names in self._sequences.items():
            before = set(saved.get("sequences", {}).get(what, names))
            for name in sorted(before ^ set(names)):
                raise InputError(
                    f"{self.checkpoint} was begun with other {what} sequences: {name} is"
                    f" {'missing' if name in before else 'new'}; give the same, or another output"
                    " folder"
                )

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

    def _batches(self) -> Iterator[ClipBatch]:
        recipe = self.recipe
        span = range(self.step, recipe.steps)
        return clip_batches(self.clips, self.accelerator, recipe.batch_size, span, self.workers)

    def _train_step(self, batch: ClipBatch) -> dict[str, float]:
        changed = self.method.on_step(self.step)
        if changed is not None:
            self._take(changed)
        return super()._train_step(batch)

    def _loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        seed = self.recipe.seed * 1_000_003 + self.step
        if self.prepared.policy is not None:
            # Processes route their clips by draws of their own.
            self.prepared.policy.reseed(seed + 7919 * self.accelerator.process_index)
        losses = self.model(*batch, seed, 0.0, self.step)
        watched = {"iou": losses.iou, "extra": losses.extra, "blocks": losses.blocks}
        if self.prepared.watch is not None:
            watched |= {name: torch.tensor(x) for name, x in self.prepared.watch().items()}
        return losses.total, watched

    def _state(self) -> dict[str, Any]:
        policy = self.prepared.policy
        return {
            "trained": {name: p.detach() for name, p in self._changed(self._touched).items()},
            "policy": policy.state_dict() if isinstance(policy, nn.Module) else {},
            "method": self.method.state(),
            "optimizer": self.optimizer.state_dict(),
            "base": self._sample,
            "sequences": self._sequences,
        }

    def _validate(self) -> dict[str, float]:
        if self.validation is None:
            return {}
        rows = self.validation.scores(self.prepared.network, self.prepared.policy)
        return {**rows, "mean": sum(rows.values()) / len(rows)}

    def export(self) -> Path:
        """Write the adapter into the folder, which is then an adapter."""
        return save_adapter(
            self.folder, self.method.name, self._name, self._sample, self.method.export()
        )


def start_adaptation(
    network: RoutedNetwork,
    root: Path,
    out: Path,
    method: Method,
    recipe: AdaptRecipe,
    held_out: Sequence[str] | None = None,
    workers: int = 1,
) -> Adaptation:
    """Everything up to the first step: data read, blocks measured, the last checkpoint loaded.

    root, held_out: see `adaptation_data`. Then call `run` and `export`. Raises InputError for
    data that cannot be used, and for a folder `out` that holds a run with other settings, weights
    or sequences.
    """
    shape = recipe.image_size, recipe.num_frames, recipe.seed
    data = adaptation_data(root, *shape, held_out, most_objects=recipe.most_objects)
    out = make_folder(out)
    device = make_accelerator().device
    side = recipe.image_size
    precision = torch.bfloat16  # as in training
    objective = recipe.objective
    measure = SequenceMeasure(data.measured, side, device, dtype=precision, objective=objective)
    validation = None
    if data.held_out:
        validation = SequenceMeasure(
            data.held_out, side, device, dtype=precision, objective=objective
        )
    sequences = {"training": data.training, "held-out": [s.name for s in data.held_out]}
    return Adaptation(
        recipe, method, network, data.clips, out, measure, validation, workers, sequences
    )
