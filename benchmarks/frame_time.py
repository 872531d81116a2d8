"""Time of one frame at several input sizes and types: one object, memories full, 480p frames.

    python benchmarks/frame_time.py --model nano --engines fast,plain --out times.json

Decoding and writing are left out; bringing the mask to the video's size is not.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import cast

import numpy as np
import torch

from tempomask import load
from tempomask.devices import DTypeName
from tempomask.files import write_json
from tempomask.model import Engine

HEIGHT, WIDTH = 480, 854
# Seven memories are full after this many frames; so many more are timed.
WARM_UP, TIMED = 8, 16


def frame_times(
    model: str, size: int, dtype: DTypeName, engine: Engine
) -> dict[str, float | int | str]:
    """Median and best milliseconds of a frame."""
    session = load(model, image_size=size, device="cpu", dtype=dtype, engine=engine).session()
    rng = np.random.default_rng(0)
    frame = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    session.prompt(box=(200, 100, 400, 300))
    times = []
    for _ in range(WARM_UP + TIMED):
        started = time.perf_counter()
        session.step(frame).masks  # noqa: B018  (computed when asked for)
        times.append(1000 * (time.perf_counter() - started))
    timed = times[WARM_UP:]
    return {
        "image_size": size,
        "dtype": dtype,
        "engine": engine,
        "median_ms": round(float(np.median(timed)), 1),
        "best_ms": round(min(timed), 1),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="nano")
    parser.add_argument("--sizes", default="384")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--engines", default="fast")
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    rows = [
        frame_times(arguments.model, int(size), cast(DTypeName, dtype), cast(Engine, engine))
        for engine in arguments.engines.split(",")
        for size in arguments.sizes.split(",")
        for dtype in arguments.dtypes.split(",")
    ]
    report = {"model": arguments.model, "threads": torch.get_num_threads(), "rows": rows}
    print(json.dumps(report, indent=2))
    if arguments.out:
        write_json(arguments.out, report)
