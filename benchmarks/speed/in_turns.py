"""Ways to track beside each other in one process, in turns frame by frame.

    python -m benchmarks.speed.in_turns --data DAVIS --model sam2.1-tiny --kind avx2 --out out.json
    python -m benchmarks.speed.in_turns --data DAVIS --model efficienttam-s-2 \
        --sides plain:float32,fast:float32

Same random weights, same frames; the order moves on by one with each frame, so that what else the
machine does meets all sides. A frame of the first side over the same frame of another is one ratio;
the median counts, over the frames with full memories. A side is "official" (with `--release`, a
checkout of SAM 2 or EfficientTAM), "transformers", "plain" or "fast", each with "+" and what else
it does, and its type: pooled (memories 2x2, Eq. 5), memory=0.5 (a budget of the memory attention),
blocks=0.6 (of the encoder's, always the same).
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.common import FULL_FROM, finish, parser, randomised
from benchmarks.speed.against_transformers import Task, steps

SIDES = (
    "transformers:float32,plain:float32,fast:float32,fast+memory=0.5:float32,"
    "fast+memory=0.3:float32,fast+memory=0.3+blocks=0.6:float32,"
    "fast+pooled+memory=0.3+blocks=0.6:float32"
)


def task_of(side: str, given: argparse.Namespace, weights: Path) -> Task:
    """What a side of the command line asks for."""
    way, _, dtype = side.partition(":")
    name, *more = way.split("+")
    named = dict(one.split("=") for one in more if "=" in one)
    return Task(
        name,
        dtype,
        given.model,
        given.sequence,
        given.data,
        given.frames,
        given.objects,
        weights,
        weights,
        "pooled" in more,
        float(named.get("memory", 1)),
        float(named.get("blocks", 1)),
        given.release,
    )


def compare(given: argparse.Namespace) -> dict[str, Any]:
    """Seconds of all sides, and how many times as fast as the first each one is."""
    sides = given.sides.split(",")
    with tempfile.TemporaryDirectory() as name:
        weights = Path(name) / "weights.pt"
        torch.save(randomised(given.model).state_dict(), weights)
        running = [steps(task_of(side, given, weights)) for side in sides]
        table = np.zeros((given.frames, len(sides)))
        for index in range(given.frames):
            turn = index % len(sides)
            for i in (*range(turn, len(sides)), *range(turn)):
                table[index, i], _ = next(running[i])
            print(index, table[index].round(3).tolist(), flush=True)
    full = table[FULL_FROM:]
    ratios = full[:, :1] / full
    rows = [
        {
            "side": side,
            "seconds": round(float(np.median(full[:, i])), 4),
            "times_as_fast": round(float(np.median(ratios[:, i])), 3),
            "from_to": [round(float(x), 3) for x in (ratios[:, i].min(), ratios[:, i].max())],
        }
        for i, side in enumerate(sides)
    ]
    return {"model": given.model, "objects": given.objects, "frames": len(full), "rows": rows}


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=Path, required=True, help="a folder in the DAVIS layout")
    command.add_argument("--sequence", default="dog")
    command.add_argument("--model", default="sam2.1-tiny")
    command.add_argument("--frames", type=int, default=16, help=f"the first {FULL_FROM} warm up")
    command.add_argument("--objects", type=int, default=1)
    command.add_argument("--sides", default=SIDES)
    command.add_argument("--release", type=Path, help="a checkout, for the side official")
    given = command.parse_args()
    finish(compare(given), given.out)


if __name__ == "__main__":
    main()
