"""Seconds a frame and memory of instance segmenters, each in a process of its own.

    python -m benchmarks.speed.instance_models --out docs/results/instances/models.json

Random weights, of which times hardly depend; the first frames of the bundled clip at the short side
of each model's evaluation, in the fast engine. An offline model is timed over all frames, its
refiner included. The process that makes a model and tracks with it is asked for its peak memory.
"""

from __future__ import annotations

import multiprocessing
import resource
import time
from typing import Any

import numpy as np
import torch

from benchmarks.common import finish, parser
from tempomask.devices import resolve_dtype
from tempomask.instances.fast import accelerate_instances
from tempomask.instances.model import InstanceModel
from tempomask.models.instances.config import instance_config
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.zoo import ASSETS

MODELS = (
    "nano-vis,minvis-r50-ovis,ctvis-r50-ovis,dvis-r50-ovis,dvis-plus-r50-ovis,"
    "dvis-plus-r50-ovis-offline,dvis-plus-swin-large-ovis,dvis-plus-vit-adapter-large-ovis"
)


def measured(name: str, frames: int) -> dict[str, Any]:
    """One model in this process."""
    torch.manual_seed(0)
    config = instance_config(name)
    dtype = resolve_dtype("auto", torch.device("cpu"))
    segmenter = InstanceSegmenter(config).eval()
    # Packed layers are no parameters any more.
    parameters = sum(x.numel() for x in segmenter.parameters())
    model = InstanceModel(accelerate_instances(segmenter, dtype), dtype=dtype)
    times, before = [], time.perf_counter()
    for _ in model.track(ASSETS / "clip" / "clip.mp4", frames=range(frames)):
        now = time.perf_counter()
        times.append(now - before)
        before = now
    offline = config.refiner is not None
    # What the first frame makes serves all later ones.
    seconds = sum(times) / frames if offline else float(np.median(times[1:]))
    return {
        "model": name,
        "short_side": config.short_side,
        "million_parameters": round(parameters / 1e6, 1),
        "dtype": str(dtype).removeprefix("torch."),
        "seconds": round(seconds, 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--models", default=MODELS)
    command.add_argument("--frames", type=int, default=6)
    given = command.parse_args()
    rows = []
    for name in given.models.split(","):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            rows.append(pool.apply(measured, (name, given.frames)))
        print(rows[-1], flush=True)
    finish({"frames": given.frames, "rows": rows}, given.out)


if __name__ == "__main__":
    main()
