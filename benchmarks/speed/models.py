"""Models beside each other in one process, in turns frame by frame: time and memory.

    python -m benchmarks.speed.models --models edgetam,efficienttam-ti-2,nano --out models.json

Random weights, of which times do not depend; one object, full memories, frames of 480p in float32
by default. The order moves on by one with each frame, so that what else the machine does meets all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.common import FULL_FROM, finish, noise, parser, randomised, seconds_of
from benchmarks.flops import frame_cost
from tempomask.engine import accelerate
from tempomask.model import Model
from tempomask.models.segmenter import Segmenter
from tempomask.tracking.session import Session


def started(name: str, dtype: torch.dtype) -> tuple[Segmenter, Session]:
    """The plain network, and a session of its fast form with a box on the first frame."""
    session = Model(accelerate(randomised(name), dtype), dtype).session()
    session.prompt(box=(200, 100, 400, 300))
    return randomised(name), session


def row_of(network: Segmenter, session: Session, seconds: Any, ratios: Any) -> dict[str, Any]:
    """What a model took; ratios: its time over the first model's, frame by frame."""
    cost = frame_cost(network)
    tensors = [*network.parameters(), *network.buffers()]
    return {
        "model": network.name,
        "image_size": network.config.image_size,
        "million_parameters": round(sum(x.numel() for x in network.parameters()) / 1e6, 2),
        "weights_mb": round(sum(x.nbytes for x in tensors) / 2**20, 1),
        "memory_bank_mb": round(session.memory_bytes() / 2**20, 3),
        "giga_multiply_adds": {
            "encoder": round(cost.encoder().total / 1e9, 1),
            "memory attention": round(cost.memory_attention.total / 1e9, 1),
            "frame": round(cost.frame().total / 1e9, 1),
        },
        "seconds": round(float(np.median(seconds)), 4),
        "times_the_first": round(float(np.median(ratios)), 3),
        "from_to": [round(float(x), 3) for x in (ratios.min(), ratios.max())],
    }


def compare(names: list[str], frames: int, dtype: torch.dtype) -> list[dict[str, Any]]:
    """A row for each model, over the frames with full memories."""
    running = [started(name, dtype) for name in names]
    (frame,) = noise(1)
    table = np.zeros((FULL_FROM + frames, len(names)))
    for index in range(len(table)):
        turn = index % len(names)
        for i in (*range(turn, len(names)), *range(turn)):
            session = running[i][1]
            table[index, i] = seconds_of(lambda session=session: session.step(frame).masks)
        print(index, table[index].round(3).tolist(), flush=True)
    full = table[FULL_FROM:]
    columns = zip(running, full.T, (full / full[:, :1]).T, strict=True)
    return [row_of(*pair, seconds, ratios) for pair, seconds, ratios in columns]


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--models", default="edgetam,efficienttam-ti-2,nano")
    command.add_argument("--frames", type=int, default=9, help="that are timed")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    given = command.parse_args()
    rows = compare(given.models.split(","), given.frames, getattr(torch, given.dtype))
    finish({"dtype": given.dtype, "frames": given.frames, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
