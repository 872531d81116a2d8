"""Does measured worth tell what leaving a block out costs? Correlations on real clips.

    python -m studies.rds.worth --data DATA --image-size 256 --clips 6 --out studies/rds/worth.json

For each clip, with its first mask given and no training:

    truth   the loss with a block left out minus the loss of all blocks: of the whole clip (left out
            on every frame after the first), and of single frames (left out there alone)
    full    -dL/dr with all blocks running (`adaptation.worth`)
    absent  -dL/dr of the blocks that a random plan of the budget skips, averaged over the draws
    both    the mean of `full` and `absent`, each over its spread

Correlations over the free blocks: of the mean over clips, of each clip, and of single frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.common import model_parser
from tempomask.adaptation.worth import measured_worth
from tempomask.data.clips import Clip, collate
from tempomask.files import write_json
from tempomask.models.encoder import Plan, Policy, always_on_blocks
from tempomask.models.segmenter import Segmenter
from tempomask.routing.budget import block_count
from tempomask.routing.plans import RoutedPlan
from tempomask.training.adaptation_data import adaptation_data
from tempomask.training.losses import LossWeights
from tempomask.training.objectives import PROMPTS
from tempomask.training.unroll import ClipModel
from tempomask.weights import load_segmenter


class LeftOut(Policy):
    """Leaves blocks out of some frames of one clip; all its frames come in one pass."""

    def __init__(self, keep: Tensor, gradients: bool = False) -> None:
        """keep: bool (T, L)."""
        self.keep = keep
        self.r = keep.float().requires_grad_(gradients)
        self._gradients = gradients

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """See `models.encoder.Policy`."""
        weights = self.r if self._gradients else None
        return RoutedPlan(self.keep.tolist(), weights, skipped_gradient=True)


class ClipWorth:
    """Losses and derivatives of one clip (T frames) of a network."""

    def __init__(self, segmenter: Segmenter, clip: Clip, reduced: bool) -> None:
        self.segmenter, self.reduced = segmenter, reduced
        # The loss of predicted IoU has a target that jumps where a mask changes.
        model = ClipModel(segmenter, LossWeights(iou=0.0), PROMPTS["mask"])
        self._replay = model.replay(model.clips(*collate([clip]), seed=0))
        self.shape = clip.masks.shape[1], segmenter.encoder.num_blocks

    def _cast(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16, enabled=self.reduced)

    def loss(self, keep: Tensor) -> float:
        """Of the clip with blocks left out: bool (T, L)."""
        with self._cast():
            return self._replay(self.segmenter, LeftOut(keep)).loss.item()

    def full(self) -> Tensor:
        """-dL/dr (T, L) with all blocks."""
        with self._cast():
            return measured_worth(self.segmenter, self._replay)[0]

    def absent(self, keep: Tensor) -> Tensor:
        """-dL/dr (T, L) with blocks left out."""
        policy = LeftOut(keep, gradients=True)
        with self._cast():
            loss = self._replay(self.segmenter, policy, gradients=True).loss
            return -torch.autograd.grad(loss, policy.r)[0]


def measure(
    worth: ClipWorth, free: Sequence[int], count: int, draws: int, frames: Sequence[int]
) -> dict[str, Tensor]:
    """Everything of one clip, of the free blocks: (F,) of the clip, (T, F) of the derivatives."""
    length, total = worth.shape
    everything = torch.ones(length, total, dtype=torch.bool)
    whole = worth.loss(everything)
    clip, single = torch.zeros(len(free)), torch.full((length, len(free)), torch.nan)
    for place, block in enumerate(free):
        keep = everything.clone()
        keep[1:, block] = False
        clip[place] = worth.loss(keep) - whole
        for frame in frames:
            keep = everything.clone()
            keep[frame, block] = False
            single[frame, place] = worth.loss(keep) - whole
    generator = torch.Generator().manual_seed(0)
    total_absent, times = torch.zeros(length, total), torch.zeros(length, total)
    for _ in range(draws):
        keep = everything.clone()
        for frame in range(1, length):
            order = torch.randperm(len(free), generator=generator)
            left_out = [free[i] for i in order[: total - count].tolist()]
            keep[frame, left_out] = False
        total_absent += worth.absent(keep) * ~keep
        times += ~keep
    absent = total_absent / times.clamp(min=1)
    chosen = list(free)
    return {
        "clip": clip,
        "frames": single,
        "full": worth.full()[:, chosen],
        "absent": absent[:, chosen],
    }


def correlations(found: Sequence[dict[str, Tensor]]) -> dict[str, dict[str, float]]:
    """Of each way of measuring, with the truth."""
    ways = {
        "full": [f["full"] for f in found],
        "absent": [f["absent"] for f in found],
        "both": [_scaled(f["full"]) + _scaled(f["absent"]) for f in found],
    }
    truth = torch.stack([f["clip"] for f in found])
    rows = {}
    for way, values in ways.items():
        of_clips = torch.stack([value[1:].sum(dim=0) for value in values])
        pairs = [
            (value[frame], f["frames"][frame])
            for value, f in zip(values, found, strict=True)
            for frame in range(len(value))
            if not f["frames"][frame].isnan().any()
        ]
        rows[way] = {
            "mean_over_clips": _correlation(of_clips.mean(dim=0), truth.mean(dim=0)),
            "of_each_clip": _mean(
                [_correlation(a, b) for a, b in zip(of_clips, truth, strict=True)]
            ),
            "of_each_frame": _mean([_correlation(a, b) for a, b in pairs]),
        }
    return rows


def _scaled(values: Tensor) -> Tensor:
    return values / values.std().clamp(min=1e-12)


def _correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([first, second]).double())[0, 1])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


def main() -> None:
    parser = model_parser(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="as for `tempomask adapt`")
    parser.add_argument("--clips", type=int, default=6)
    parser.add_argument("--num-frames", type=int, default=8)
    parser.add_argument("--frames", default="2,5", help="on which single blocks are left out")
    parser.add_argument("--budget", type=float, default=0.6, help="of the random plans")
    parser.add_argument("--draws", type=int, default=6)
    parser.add_argument("--reduced", action="store_true", help="bfloat16, as in training")
    given = parser.parse_args()
    segmenter = load_segmenter(given.model, given.checkpoint, given.image_size)
    segmenter = segmenter.eval().requires_grad_(False)
    encoder, side = segmenter.encoder, segmenter.config.image_size
    always_on = always_on_blocks(encoder)
    free = [i for i in range(encoder.num_blocks) if i not in always_on]
    count = block_count(given.budget, encoder.num_blocks, always_on)
    clips = adaptation_data(given.data, side, given.num_frames, 1, ()).clips
    frames = [int(frame) for frame in given.frames.split(",")]
    found = []
    for index in range(given.clips):
        worth = ClipWorth(segmenter, clips[index], given.reduced)
        found.append(measure(worth, free, count, given.draws, frames))
        print(json.dumps(correlations(found)), flush=True)
    report = {
        "model": segmenter.config.name,
        "image_size": side,
        "blocks": free,
        "cost": [round(x, 4) for x in torch.stack([f["clip"] for f in found]).mean(0).tolist()],
        "correlations": correlations(found),
        "settings": {k: str(v) if isinstance(v, Path) else v for k, v in vars(given).items()},
    }
    if given.out is not None:
        write_json(given.out, report)


if __name__ == "__main__":
    main()
