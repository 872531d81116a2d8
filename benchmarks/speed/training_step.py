"""Time and memory of a fine-tuning step of SAM 2's recipe, and what fits into a GPU by calculation.

    python -m benchmarks.speed.training_step --models nano,sam2.1-tiny --sizes 256,384 --out FILE

Clips of noise with three objects, random weights. `kept` is what the forward pass keeps for the
backward pass, counted tensor by tensor; `recomputed` the most that one recomputed part needs then.
On a GPU `peak` is what was allocated. The calculation takes 20 bytes a parameter (weight, gradient,
two moments, average), and the activations of the larger size in proportion to the area.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import Dataset

from benchmarks.common import finish, parser, randomised
from tempomask.data.clips import Clip, ClipBatch, collate
from tempomask.training.finetune import Finetuning
from tempomask.training.finetune_recipe import FinetuneRecipe, InteractiveSampling
from tempomask.training.unroll import encoded_per_object

MIB = 2**20
STATE_BYTES = 20
# As of a step in which two frames get all their clicks, the most that there is.
PROMPTS = InteractiveSampling(points=1.0, conditioning=2, corrected=2)


class Noise(Dataset[Clip]):
    """Clips of T frames of noise with three squares."""

    def __init__(self, side: int, frames: int) -> None:
        self.side, self.frames = side, frames

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng(index)
        frames = rng.integers(0, 255, (self.frames, self.side, self.side, 3), dtype=np.uint8)
        masks = np.zeros((3, self.frames, self.side, self.side), np.uint8)
        for row, mask in enumerate(masks):
            start = row * self.side // 4
            mask[:, start : start + self.side // 3, start : start + self.side // 3] = 1
        return Clip(frames, masks, "noise")


class Kept:
    """Bytes of the tensors that were kept for a backward pass; of parameters none."""

    def __init__(self, model: nn.Module) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        self.sizes: dict[int, int] = {}

    @contextmanager
    def counted(self) -> Iterator[Kept]:
        with saved_tensors_hooks(self._note, lambda x: x):
            yield self

    def _note(self, x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in self.own:
            self.sizes[storage.data_ptr()] = storage.nbytes()
        return x

    @property
    def mib(self) -> float:
        return sum(self.sizes.values()) / MIB


def largest_part(run: Finetuning, batch: ClipBatch) -> float:
    """MiB that the largest of the parts that are recomputed keeps: a block, or a prediction."""
    core, found = run.core, []
    clips = core.clips(*batch, 0)
    images = clips.images.flatten(0, 1)
    encoder = core.segmenter.encoder

    def watch(block: nn.Module, inputs: Any) -> None:
        with Kept(core).counted() as kept, run.accelerator.autocast():
            type(block).forward(block, *inputs)  # type: ignore[arg-type]
        found.append(kept.mib)

    handles = [block.register_forward_pre_hook(watch) for block in encoder.blocks]
    with run.accelerator.autocast():
        encoded = core.segmenter.encode(images)
    for handle in handles:
        handle.remove()
    fine = tuple(x[:1] for x in encoded.high_resolution)
    first = encoded._replace(features=encoded.features[:1], high_resolution=fine)
    frame = encoded_per_object(first, clips.owner * 0)
    with Kept(core).counted() as kept, run.accelerator.autocast():
        core._decode(frame.features, frame, clips.targets[:, 0], None, None)
    return max(*found, kept.mib)


def measure(model: str, side: int, steps: int, frames: int) -> dict[str, Any]:
    """Seconds and memory of the steps of a model at an image size."""
    segmenter = randomised(model)
    segmenter.config = segmenter.config.with_image_size(side)
    recipe = FinetuneRecipe(model=model, image_size=side, num_frames=frames, prompts=PROMPTS)
    with tempfile.TemporaryDirectory() as folder:
        clips = Noise(side, frames)
        run = Finetuning(recipe, segmenter, clips, Path(folder), workers=0)
        device = run.accelerator.device
        batches = [
            ClipBatch(*(x.to(device) for x in collate([clips[k]]))) for k in range(steps + 1)
        ]
        run.model.train()
        rows: dict[str, Any] = {"model": model, "image_size": side, "frames": frames}
        for checkpointing in (True, False):
            run.core.checkpointing = checkpointing
            policy, run.core.policy = run.core.policy, run.core.policy if checkpointing else None
            with Kept(run.core).counted() as kept, run.accelerator.autocast():
                run._seed = 0
                loss, _ = run._loss(batches[0])
            name = "kept_mib" if checkpointing else "kept_without_recomputing_mib"
            rows[name] = round(kept.mib, 1)
            del loss
            run.core.policy = policy
        run.core.checkpointing = True
        rows["recomputed_mib"] = round(largest_part(run, batches[0]), 1)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds = [run._train_step(batch)["seconds"] for batch in batches[1:]]
        rows["seconds"] = round(median(seconds), 2)
        if device.type == "cuda":
            rows["peak_mib"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
        rows["parameters"] = run.parameters[1]
    return rows


def calculated(row: dict[str, Any], side: int) -> float:
    """GiB of a step at another image size, from what was counted at one."""
    area = (side / row["image_size"]) ** 2
    activations = (row["kept_mib"] + row["recomputed_mib"]) * area * MIB
    return round((STATE_BYTES * row["parameters"] + activations) / 2**30, 2)


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--models", default="nano,sam2.1-tiny")
    arguments.add_argument("--sizes", default="256,384")
    arguments.add_argument("--steps", type=int, default=2)
    arguments.add_argument("--frames", type=int, default=8)
    given = arguments.parse_args()
    rows = [
        measure(model, int(side), given.steps, given.frames)
        for model in given.models.split(",")
        for side in given.sizes.split(",")
    ]
    largest = {row["model"]: row for row in sorted(rows, key=lambda row: row["image_size"])}
    for row in rows:
        row["calculated_gib"] = {
            str(side): calculated(largest[row["model"]], side) for side in (512, 768, 1024)
        }
    finish({"steps": given.steps, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
