"""Fine-tuning of a segmenter on video and images with masks: SAM 2's training, for any model here.

Beside the checkpoint, OUT/model.safetensors has the moving average of the weights at the step that
scored best on what is held out, or at the last one if nothing is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from tempomask.adaptation.lora import add_lora, export_lora, merge_lora
from tempomask.data.clips import Clip, ClipBatch
from tempomask.data.footage import Footage, FootageSet, Photo, hold_out
from tempomask.data.footage_clips import FootageClips
from tempomask.errors import InputError, unknown_name
from tempomask.files import make_folder, read_text
from tempomask.models.config import segmenter_config
from tempomask.models.encoder import Encoder
from tempomask.models.segmenter import Segmenter
from tempomask.ops.modes import evaluation_mode
from tempomask.schema import parse_json, whole
from tempomask.tracking.frames import resize_frame
from tempomask.training.calibration import SequenceMeasure
from tempomask.training.checkpoint import REPORTING, load_checkpoint, write_torch
from tempomask.training.finetune_recipe import FinetuneRecipe
from tempomask.training.interactive import InteractiveClips
from tempomask.training.loop import clip_batches
from tempomask.training.regularise import add_drop_path, add_dropout
from tempomask.training.run import AveragedRun, append_scores, make_accelerator, parameter_groups
from tempomask.training.validation import SquareVideo, single_image, square, validate_prompts
from tempomask.weights import load_segmenter, save_segmenter, to_official
from tempomask.weights.files import checksum

WEIGHTS, VALIDATION = "model.safetensors", "validation.jsonl"
# Of what is held out: annotated frames, at this stride, and objects of a video.
FRAMES, STRIDE, MOST_OBJECTS = 16, 3, 3
Scores = Callable[[Segmenter], dict[str, float]]


class Finetuning(AveragedRun[FinetuneRecipe, ClipBatch, InteractiveClips]):
    """One run.

    Args:
        recipe: Of the run.
        segmenter: With the weights to start from; it is changed.
        clips: Item i is a clip that depends on i alone.
        out: Folder of the run.
        scores: By name, of a segmenter in evaluation mode; that of "mean" is the best when it is
            highest. None for no validation.
        workers: Processes that prepare clips.

    Raises:
        InputError: A frozen part is unknown, nothing is left to train, or the folder holds a run
            with other settings or from other weights.
    """

    def __init__(
        self,
        recipe: FinetuneRecipe,
        segmenter: Segmenter,
        clips: Dataset[Clip],
        out: Path,
        scores: Scores | None = None,
        workers: int = 1,
    ) -> None:
        recipe = replace(recipe, start=checksum(segmenter.state_dict()))
        if recipe.lora:
            blocks = range(segmenter.encoder.num_blocks)
            add_lora(segmenter.encoder, blocks, recipe.lora, seed=recipe.seed)
        freeze(segmenter, recipe.frozen)
        groups = trained_groups(segmenter, recipe)
        if not groups:
            raise InputError(f"nothing is left to train: all of {recipe.model} is frozen")
        add_drop_path(segmenter.encoder, recipe.drop_path)
        add_dropout(segmenter.memory_attention, recipe.dropout)
        core = InteractiveClips(segmenter, recipe.losses, recipe.prompts, recipe.checkpointing)
        super().__init__(recipe, core, out, unused_parameters=True)
        self.clips, self.scores, self.workers = clips, scores, workers
        self._optimise(core, groups, betas=(0.9, 0.999))

    def resume(self) -> None:
        """Same as `Run.resume`; as schedules depend on it, the number of steps stays, too."""
        if self.checkpoint.exists():
            self._restore(load_checkpoint(self.checkpoint, self.recipe, REPORTING))

    @property
    def parameters(self) -> tuple[int, int]:
        """How many are trained, and how many the network has without adapters."""
        named = list(self.core.segmenter.named_parameters())
        trained = sum(p.numel() for _, p in named if p.requires_grad)
        return trained, sum(p.numel() for name, p in named if ".lora_" not in name)

    @property
    def averaged(self) -> Segmenter:
        """The moving average as a plain network, on the CPU."""
        return merged(self.average.segmenter)

    def run(self) -> dict[str, float]:
        """Same as `Run.run`; how the weights scored before the first step is noted, too."""
        if self.step == 0 and self.scores is not None and self.accelerator.is_main_process:
            (self.out / VALIDATION).unlink(missing_ok=True)
            append_scores(self.out, 0, self._scored(self.scores))
        return super().run()

    def _scored(self, scores: Scores) -> dict[str, float]:
        with evaluation_mode(self.average.segmenter), self.accelerator.autocast():
            return scores(self.average.segmenter)

    def finish(self) -> Path:
        """Write what was reached, unless a step was best; returns the path of the weights."""
        path = self.out / WEIGHTS
        if self.accelerator.is_main_process and (self.scores is None or not path.is_file()):
            save_segmenter(self.averaged, path)
        return path

    def _batches(self) -> Iterator[ClipBatch]:
        size, span = self.recipe.batch_size, range(self.step, self.recipe.steps)
        return clip_batches(self.clips, self.accelerator, size, span, self.workers)

    def _parts(self, batch: ClipBatch) -> Sequence[ClipBatch]:
        """The clips that are computed at a time, each part with its objects."""
        parts = []
        for first in range(0, len(batch.frames), self.recipe.at_once):
            last = first + self.recipe.at_once
            own = (batch.clip >= first) & (batch.clip < last)
            frames, owner = batch.frames[first:last], batch.clip[own] - first
            parts.append(ClipBatch(frames, batch.masks[own], owner))
        return parts

    def _train_step(self, batch: ClipBatch) -> dict[str, float]:
        self._seed = self.recipe.seed * 1_000_003 + self.step * self.recipe.batch_size
        return super()._train_step(batch)

    def _loss(self, batch: ClipBatch) -> tuple[Tensor, dict[str, Tensor]]:
        # Prompts, dropout and drop-path are of the step and part, so that a resumed run repeats
        # them.
        self._seed += 1
        torch.manual_seed(self._seed)
        losses = self.model(*batch, self._seed, 0.0, self.step)
        return losses.total, {"iou": losses.iou, "object_score": losses.object_score}

    def _validate(self) -> dict[str, float]:
        """Scores of the average, which is kept if none before was better."""
        if self.scores is None:
            return {}
        found = self._scored(self.scores)
        if found["mean"] > max(self.earlier_scores(), default=-1.0):
            save_segmenter(self.averaged, self.out / WEIGHTS)
        return found

    def earlier_scores(self) -> list[float]:
        """Means of the steps that were validated before this one."""
        return [row["mean"] for row in validated(self.out) if 0 < row["step"] < self.step]


def validated(out: Path) -> list[dict[str, float]]:
    """The scores in the folder of a run, with their steps, in order."""
    path = out / VALIDATION
    lines = read_text(path, "the scores").splitlines() if path.exists() else []
    return [parse_json(line, str(path), {"step": whole(), "mean": float}) for line in lines]


def freeze(segmenter: Segmenter, parts: Sequence[str]) -> None:
    """Train none of these parts, such as "encoder" or "memory_attention.layers.0"."""
    known = {**dict(segmenter.named_modules()), **dict(segmenter.named_parameters())}
    for part in parts:
        if part not in known:
            raise unknown_name(f"the network has no part {part!r} to freeze", part, known)
        known[part].requires_grad_(False)


def trained_groups(segmenter: Segmenter, recipe: FinetuneRecipe) -> list[dict[str, Any]]:
    """Optimiser groups: rates by part and encoder block, no decay of biases and layer norms."""
    norms = {
        f"{name}." for name, module in segmenter.named_modules() if isinstance(module, nn.LayerNorm)
    }

    def share(name: str) -> float:
        if not name.startswith(("encoder.", "neck.")):
            return 1.0
        slower = recipe.encoder_rate / recipe.learning_rate
        return slower * recipe.layer_decay ** layers_after(segmenter.encoder, name)

    def decays(name: str, parameter: nn.Parameter) -> bool:
        return not name.endswith("bias") and f"{name.rpartition('.')[0]}." not in norms

    return parameter_groups(segmenter, recipe.learning_rate, recipe.weight_decay, share, decays)


def layers_after(encoder: Encoder, name: str) -> int:
    """How many layers come after the one of a parameter, counting what follows the encoder as one.

    Position encodings and the neck count as last, as in SAM 2's `layer_decay_param_modifier`.
    """
    parts = name.split(".")
    if parts[0] == "neck" or "position" in parts[1]:
        return 0
    layer = int(parts[2]) + 1 if parts[1] == "blocks" else 0
    return encoder.num_blocks + 1 - layer


def merged(segmenter: Segmenter) -> Segmenter:
    """A plain copy on the CPU, with adapters added to the weights they stand on."""
    state = {
        name.replace(".base_layer.", "."): value.detach().cpu()
        for name, value in segmenter.state_dict().items()
        if ".lora_" not in name
    }
    plain = Segmenter(segmenter.config)
    plain.load_state_dict(state)
    merge_lora(plain.encoder, export_lora(segmenter.encoder))
    return plain.eval()


def export_official(weights: Path, path: Path) -> None:
    """Write weights as the official code loads them: `torch.load(path)["model"]`."""
    state = to_official(load_segmenter(None, weights).state_dict())
    make_folder(path.parent)
    write_torch(path, {"model": state})


def held_out_scores(items: Sequence[Footage], side: int, device: torch.device) -> Scores | None:
    """What scores a segmenter on footage: J&F of videos, or else the IoU of a click and of a box.

    None for no footage.
    """
    videos = [item for item in items if not isinstance(item, Photo)]
    loaded = {name: video for item in videos for name, video in _squares(item, side).items()}
    if loaded:
        measure = SequenceMeasure(loaded, side, device, dtype=torch.bfloat16)

        def tracked(segmenter: Segmenter) -> dict[str, float]:
            rows = measure.scores(segmenter)
            return {**rows, "mean": sum(rows.values()) / len(rows)}

        return tracked
    shown = [_shown(item, side) for item in items]
    batches = [ClipBatch(*(x.to(device) for x in batch)) for batch in shown if batch is not None]

    def prompted(segmenter: Segmenter) -> dict[str, float]:
        rows = validate_prompts(segmenter, batches)
        return {**rows, "mean": (rows["click"] + rows["box"]) / 2}

    return prompted if batches else None


def _squares(item: Footage, side: int) -> dict[str, SquareVideo]:
    """Each object that the first annotated frame shows, largest first, as a video of its own."""
    if item.count < 2:
        raise InputError(f"{item.name} has {item.count} annotated frames; hold out longer videos")
    shown = item.read(range(0, item.count, STRIDE if item.count > STRIDE else 1)[:FRAMES])
    frames = torch.from_numpy(np.stack([resize_frame(s.image, side, "bicubic") for s in shown]))
    ids = sorted(shown[0].masks, key=lambda i: -shown[0].masks[i].sum())
    absent = np.zeros(shown[0].image.shape[:2], dtype=bool)
    found = {}
    for i in ids[:MOST_OBJECTS]:
        masks = [square(s.masks.get(i, absent).astype(np.uint8), side) > 0 for s in shown]
        if masks[0].any():
            found[f"{item.name}/{i}"] = SquareVideo(frames, torch.from_numpy(np.stack(masks)))
    return found


def _shown(item: Footage, side: int) -> ClipBatch | None:
    image, masks = item.read([0])[0]
    return single_image(image, list(masks.values()), side)


def starting_segmenter(
    name: str | None, checkpoint: str | None, image_size: int | None, from_scratch: bool
) -> Segmenter:
    """A model with its weights, see `load_segmenter`, or with random ones, always the same."""
    if not from_scratch:
        return load_segmenter(name, checkpoint, image_size)
    config = segmenter_config(name or "nano")
    torch.manual_seed(0)
    return Segmenter(config if image_size is None else config.with_image_size(image_size))


def start_finetuning(
    recipe: FinetuneRecipe,
    sets: Sequence[FootageSet],
    segmenter: Segmenter,
    out: Path,
    held_out: Sequence[str] | None = None,
    workers: int = 1,
) -> Finetuning:
    """Everything up to the first step; then call `complete` and `finish`.

    Args:
        recipe: Of the run; with passes, these and the data set the number of its steps.
        sets: To learn from.
        segmenter: With the weights to start from; it is changed.
        out: Folder of the run; a stopped one goes on.
        held_out: Names, see `data.footage.hold_out`.
        workers: Processes that prepare clips.

    Raises:
        InputError: For data that cannot be used, and as `Finetuning`.
    """
    rest, held = hold_out(sets, held_out)
    accelerator = make_accelerator()
    if recipe.passes:
        drawn = recipe.batch_size * accelerator.num_processes
        items = sum(len(one.items) for one in rest)
        recipe = replace(recipe, steps=max(1, recipe.passes * items // drawn), passes=0)
    shape = recipe.image_size, recipe.num_frames, recipe.seed, recipe.most_objects
    clips = FootageClips(rest, *shape, recipe.changes)
    scores = held_out_scores(held, recipe.image_size, accelerator.device)
    return Finetuning(recipe, segmenter, clips, make_folder(out), scores, workers)
