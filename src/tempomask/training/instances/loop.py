"""The training of instance segmentation, stage by stage: one call, resumable, seeded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tempomask.data.instance_clips import InstanceClip
from tempomask.errors import InputError, warn
from tempomask.instances.query_routing import TemporalQueryRouter
from tempomask.models.instances.config import instance_config
from tempomask.models.instances.dvis import ReferringTracker
from tempomask.models.instances.mask2former import Stem
from tempomask.models.instances.minvis import MinVISTracker
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.training.instances.matching import ClipBatch, collate
from tempomask.training.instances.recipe import InstanceRecipe
from tempomask.training.instances.stages import StageModel
from tempomask.training.run import AveragedRun, batches, parameter_groups
from tempomask.training.start import load_imagenet_stem
from tempomask.weights.own import RouterWeights, save_instance_segmenter

Clips = Dataset[InstanceClip]
WEIGHTS = "model.safetensors"


class InstanceTraining(AveragedRun[InstanceRecipe, ClipBatch, StageModel]):
    """One run."""

    def __init__(
        self,
        recipe: InstanceRecipe,
        segmenter: InstanceSegmenter,
        router: TemporalQueryRouter | None,
        clips: Clips,
        out: Path,
        held_out: Sequence[InstanceClip] = (),
        workers: int = 1,
    ) -> None:
        """Begin at step 0; see `train_instances`. The segmenter is changed.

        router: For a stage that trains one.
        """
        backbone = segmenter.network.backbone
        if isinstance(backbone, Stem) and recipe.frozen_stages:
            for module in (backbone.first, *backbone.stages[: recipe.frozen_stages]):
                module.requires_grad_(False)
        core = StageModel(segmenter, router, recipe)
        groups = parameter_groups(
            core,
            recipe.learning_rate,
            recipe.weight_decay,
            lambda name: recipe.backbone_rate if "network.backbone." in name else 1.0,
        )
        super().__init__(recipe, core, out, unused_parameters=True)
        self.clips, self.held_out, self.workers = clips, held_out, workers
        self._optimise(core, groups, betas=(0.9, 0.999))

    def export(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        """The averaged weights, with the router if there is one, as `load_instances` takes them."""
        router = self.average.router
        stored = None
        if router is not None:
            stored = RouterWeights(router.config.to_json(), dict(router.state_dict()))
        save_instance_segmenter(self.average.segmenter, path, stored, dtype)

    def _batches(self) -> Iterator[ClipBatch]:
        span = range(self.step, self.recipe.steps)
        size = self.recipe.batch_size
        for batch in batches(self.clips, self.accelerator, size, span, self.workers, collate):
            yield batch.to(self.accelerator.device)

    def _loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        # Sampled points and noise are of the step, so that a resumed run draws the same.
        torch.manual_seed(self.recipe.seed * 1_000_003 + self.step)
        loss = self.model(batch, self.step / self.recipe.steps)
        return loss.total, loss.terms

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        """The mean loss of the averaged weights on the held-out clips."""
        size = self.recipe.batch_size
        torch.manual_seed(self.recipe.seed)
        sums: dict[str, list[float]] = {}
        for first in range(0, len(self.held_out), size):
            batch = collate(self.held_out[first : first + size]).to(self.accelerator.device)
            with self.accelerator.autocast():
                loss = self.average(batch, 1.0)
            for name, term in {"loss": loss.total, **loss.terms}.items():
                sums.setdefault(name, []).append(term.item())
        return {name: sum(values) / len(values) for name, values in sums.items()}


def build_segmenter(
    recipe: InstanceRecipe, classes: tuple[str, ...], initial: InstanceSegmenter | None = None
) -> InstanceSegmenter:
    """The recipe's segmenter.

    Args:
        recipe: Of the run.
        classes: Names, in the order of the labels.
        initial: With the weights to start from: the same model, or for a stage with a tracker its
            segmenter alone. Without, nano-vis starts from ImageNet weights, others from scratch.

    Raises:
        InputError: They do not fit, or a stage that freezes its segmenter gets none.
    """
    torch.manual_seed(recipe.seed)
    config = instance_config(recipe.model)
    config = replace(config, classes=classes, short_side=recipe.image_size)
    referring = config.referring_tracker
    trains = "minvis" if referring is None or referring.reid_dim is None else "dvis"
    fits = config.tracker == trains and recipe.tracks == (trains == "dvis")
    if not fits or config.refiner is not None:
        raise InputError(f"stage {recipe.stage} does not train {config.name}; choose its own stage")
    segmenter = InstanceSegmenter(config)
    backbone = segmenter.network.backbone
    if initial is not None:
        _start_from(segmenter, initial)
        if recipe.frozen_reid:
            _freeze_reid(segmenter, initial)
    elif recipe.stage != "minvis":
        raise InputError(f"stage {recipe.stage} starts from a trained segmenter; give its file")
    elif isinstance(backbone, Stem):
        load_imagenet_stem(backbone)
    return segmenter


def _start_from(segmenter: InstanceSegmenter, loaded: InstanceSegmenter) -> None:
    """Take over every tensor that the other has; all of the network has to be there.

    The class head may be of other classes, as when training starts from COCO: it is then new.
    """
    given, wanted = loaded.state_dict(), segmenter.state_dict()
    fitting = {k: x for k, x in given.items() if k in wanted and wanted[k].shape == x.shape}
    heads = ("class_head.weight", "class_head.bias")
    lacking = [
        k for k in wanted if k.startswith("network.") and k not in fitting and not k.endswith(heads)
    ]
    if lacking:
        raise InputError(
            f"{loaded.config.name} does not fit {segmenter.config.name} as a start:"
            f" {len(lacking)} tensors differ, {lacking[0]} for instance"
        )
    segmenter.load_state_dict(fitting, strict=False)


def _freeze_reid(segmenter: InstanceSegmenter, loaded: InstanceSegmenter) -> None:
    """Keep the re-identification head as it was loaded."""
    if isinstance(loaded.tracker, MinVISTracker) or loaded.tracker.reid_head is None:
        warn(
            f"{loaded.config.name} has no re-identification head, so that one learns beside the"
            " tracker; DVIS++ starts from a ctvis model"
        )
        return
    tracker = segmenter.tracker
    if isinstance(tracker, ReferringTracker) and tracker.reid_head is not None:
        tracker.reid_head.requires_grad_(False)


def build_router(
    recipe: InstanceRecipe, segmenter: InstanceSegmenter
) -> TemporalQueryRouter | None:
    """A fresh router of the recipe, None for a stage without one."""
    if recipe.router is None:
        return None
    config = segmenter.config
    return TemporalQueryRouter(
        replace(recipe.router, dim=config.hidden_dim, layers=config.query_decoder.layers)
    )


def train_instances(
    recipe: InstanceRecipe,
    clips: Clips,
    classes: tuple[str, ...],
    out: Path,
    initial: InstanceSegmenter | None = None,
    held_out: Sequence[InstanceClip] = (),
    workers: int = 1,
    half: bool = False,
) -> Path:
    """Train by the recipe, going on from `out` if a run stopped there.

    Args:
        recipe: Of the run.
        clips: Item i is a clip that depends on i alone, for any i >= 0.
        classes: Names, in the order of the clips' labels.
        out: Folder of the run.
        initial: See `build_segmenter`; the stages "dvis", "tar" and "tar-dvis" need it.
        held_out: Clips of which the loss is watched.
        workers: Processes that prepare clips.
        half: The matrices of the written weights are bfloat16.

    Returns:
        The path of the weights.
    """
    segmenter = build_segmenter(recipe, classes, initial)
    router = build_router(recipe, segmenter)
    training = InstanceTraining(recipe, segmenter, router, clips, out, held_out, workers)
    training.complete()
    if training.accelerator.is_main_process:
        training.export(out / WEIGHTS, torch.bfloat16 if half else torch.float32)
    return out / WEIGHTS
