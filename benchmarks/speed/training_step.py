"""Time of a fine-tuning step of SAM 2's recipe, and its memory by calculation.

    python -m benchmarks.speed.training_step --models nano,sam2.1-tiny --sizes 256,512 --out FILE
    python -m benchmarks.speed.training_step --models sam2.1-large --sizes 1024 --steps 0 --out FILE

Clips of noise with three objects and random weights; both prompted frames get all their clicks. The
memory is counted without computing, on fake tensors: `kept` is what the forward pass keeps for the
backward pass, `recomputed` the most that one recomputed part adds to it, and the calculation adds
20 bytes a parameter (weight, gradient, two moments, average). On a GPU the peak is measured, too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import Dataset

from benchmarks.common import finish, parser, randomised
from tempomask.data.clips import Clip, ClipBatch, collate
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.ops import normalise
from tempomask.ops.position import grid_sine
from tempomask.ops.rope import axial_table
from tempomask.training import interactive
from tempomask.training.finetune import Finetuning
from tempomask.training.finetune_recipe import (
    FinetuneRecipe,
    InteractiveSampling,
    PromptedFrames,
)
from tempomask.training.interactive import InteractiveClips
from tempomask.training.losses import LossWeights

MIB = 2**20
STATE_BYTES = 20
OBJECTS = 3


class BothFrames(InteractiveSampling):
    """Two frames, prompted by a click each and corrected: the most that there is in a clip."""

    def drawn(self, length: int, generator: torch.Generator) -> PromptedFrames:
        frames = (0, length // 2)
        return PromptedFrames(True, frames, frames)


class Noise(Dataset[Clip]):
    """Clips of T frames of noise with three squares."""

    def __init__(self, side: int, frames: int) -> None:
        self.side, self.frames = side, frames

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng(index)
        frames = rng.integers(0, 255, (self.frames, self.side, self.side, 3), dtype=np.uint8)
        masks = np.zeros((OBJECTS, self.frames, self.side, self.side), np.uint8)
        for row, mask in enumerate(masks):
            start = row * self.side // 4
            mask[:, start : start + self.side // 3, start : start + self.side // 3] = 1
        return Clip(frames, masks, "noise")


class Memory(NamedTuple):
    """MiB: kept for the backward pass, and the most that a recomputed part keeps then."""

    kept: float
    recomputed: float


class Counter:
    """Counts the bytes that are kept for a backward pass, but for parameters."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.own = {p.untyped_storage()._cdata for p in model.parameters()}

    @contextmanager
    def counted(self, into: list[float]) -> Iterator[None]:
        seen: dict[int, Any] = {}

        def note(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            if storage._cdata not in self.own:
                seen[storage._cdata] = storage  # held, or its number could be another's
            return x

        with saved_tensors_hooks(note, lambda x: x):
            yield
        into.append(sum(storage.nbytes() for storage in seen.values()) / MIB)


def memory(model: str, side: int, frames: int, recomputing: bool = True) -> Memory:
    """Counted on fake tensors, which have shapes and types but no values."""
    with torch.device("meta"):
        network = Segmenter(replace(segmenter_config(model), image_size=side))
    with FakeTensorMode(allow_non_fake_inputs=True), _tables_apart():
        network.to_empty(device="cpu")
        core = InteractiveClips(network, LossWeights(), BothFrames(), recomputing).train()
        counter, whole, parts = Counter(core), list[float](), list[float]()

        def part(function: Callable[..., Any], *arguments: Any, **_: Any) -> Any:
            with counter.counted(parts):
                return function(*arguments)

        images = torch.zeros(1, frames, side, side, 3, dtype=torch.uint8)
        masks = torch.zeros(OBJECTS, frames, side, side, dtype=torch.uint8)
        inputs = images, masks, torch.zeros(OBJECTS, dtype=torch.long), 0
        nothing = patch.multiple(interactive, click=_fake_click, _chance=lambda *_: False)
        with nothing, torch.autocast("cpu", torch.bfloat16):
            with counter.counted(whole):
                core(*inputs)
            if recomputing:
                one = patch("tempomask.training.regularise.checkpoint", part)
                with one, patch("tempomask.training.interactive.checkpoint", part):
                    core(*inputs)
    return Memory(whole[0], max(parts, default=0.0))


@contextmanager
def _tables_apart() -> Iterator[None]:
    """Tables that are kept for later are real before and after."""
    tables = axial_table, grid_sine, normalise._moments
    for table in tables:
        table.cache_clear()
    try:
        yield
    finally:
        for table in tables:
            table.cache_clear()


def _fake_click(mask: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return mask.new_zeros(len(mask), 1, 2), torch.ones(len(mask), 1, dtype=torch.long)


def seconds(model: str, side: int, frames: int, steps: int) -> dict[str, float]:
    """The shortest of some steps, after a first one; on a GPU also the peak of its memory."""
    segmenter = randomised(model)
    segmenter.config = segmenter.config.with_image_size(side)
    recipe = FinetuneRecipe(model=model, image_size=side, num_frames=frames, prompts=BothFrames())
    with tempfile.TemporaryDirectory() as folder:
        clips = Noise(side, frames)
        run = Finetuning(recipe, segmenter, clips, Path(folder), workers=0)
        device = run.accelerator.device
        taken = []
        for index in range(steps + 1):
            batch = ClipBatch(*(x.to(device) for x in collate([clips[index]])))
            taken.append(run._train_step(batch)["seconds"])
    found = {"seconds": round(min(taken[1:]), 2)}
    if device.type == "cuda":
        found["peak_mib"] = round(torch.cuda.max_memory_allocated() / MIB, 1)
    return found


def measured(model: str, side: int, frames: int, steps: int) -> dict[str, Any]:
    """One row."""
    parameters = sum(p.numel() for p in _meta(model).parameters())
    counted = memory(model, side, frames)
    total = STATE_BYTES * parameters / MIB + sum(counted)
    row = {
        "model": model,
        "image_size": side,
        "frames": frames,
        "parameters": parameters,
        "kept_mib": round(counted.kept, 1),
        "recomputed_mib": round(counted.recomputed, 1),
        "kept_without_recomputing_mib": round(memory(model, side, frames, False).kept, 1),
        "calculated_gib": round(total / 1024, 2),
    }
    return {**row, **(seconds(model, side, frames, steps) if steps else {})}


def _meta(model: str) -> Segmenter:
    with torch.device("meta"):
        return Segmenter(segmenter_config(model))


def main() -> None:
    arguments = parser(__doc__)
    arguments.add_argument("--models", default="nano,sam2.1-tiny")
    arguments.add_argument("--sizes", default="256,512")
    arguments.add_argument("--steps", type=int, default=2, help="0 to count alone")
    arguments.add_argument("--frames", type=int, default=8)
    given = arguments.parse_args()
    rows = [
        measured(model, int(side), given.frames, given.steps)
        for model in given.models.split(",")
        for side in given.sizes.split(",")
    ]
    finish({"objects": OBJECTS, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
