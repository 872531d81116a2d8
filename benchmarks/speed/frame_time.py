"""Time of one frame at several input sizes and types: one object, memories full, 480p frames.

    python -m benchmarks.speed.frame_time --model nano --engines fast,plain --out times.json

Decoding and writing are left out; bringing the mask to the video's size is not.
"""

from __future__ import annotations

import time
from typing import cast

import numpy as np
import torch

from benchmarks.common import FULL_FROM, finish, noise, parser
from tempomask import load
from tempomask.devices import DTypeName
from tempomask.model import Engine

# Frames that are timed, after those that fill the memories.
TIMED = 16


def frame_times(
    model: str, size: int, dtype: DTypeName, engine: Engine
) -> dict[str, float | int | str]:
    """Median and best milliseconds of a frame."""
    session = load(model, image_size=size, device="cpu", dtype=dtype, engine=engine).session()
    (frame,) = noise(1)
    session.prompt(box=(200, 100, 400, 300))
    times = []
    for _ in range(FULL_FROM + TIMED):
        started = time.perf_counter()
        session.step(frame).masks  # noqa: B018  (computed when asked for)
        times.append(1000 * (time.perf_counter() - started))
    timed = times[FULL_FROM:]
    return {
        "image_size": size,
        "dtype": dtype,
        "engine": engine,
        "median_ms": round(float(np.median(timed)), 1),
        "best_ms": round(min(timed), 1),
    }


if __name__ == "__main__":
    command = parser(__doc__)
    command.add_argument("--model", default="nano")
    command.add_argument("--sizes", default="384")
    command.add_argument("--dtypes", default="float32,bfloat16")
    command.add_argument("--engines", default="fast")
    arguments = command.parse_args()
    rows = [
        frame_times(arguments.model, int(size), cast(DTypeName, dtype), cast(Engine, engine))
        for engine in arguments.engines.split(",")
        for size in arguments.sizes.split(",")
        for dtype in arguments.dtypes.split(",")
    ]
    report = {"model": arguments.model, "threads": torch.get_num_threads(), "rows": rows}
    finish(report, arguments.out)
