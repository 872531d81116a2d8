"""Frames a second against the number of objects, exact and with pooled memory attention.

    python -m benchmarks.speed.objects --model sam2.1-tiny --counts 1,2,5,10,20 --out objects.json

Weights are random for models that are not on this machine; times do not depend on them. Memories
are full; a frame is timed from the image at video size to its low-resolution masks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.common import FULL_FROM, autocast, finish, noise, parser, seconds_of, shortest
from benchmarks.flops import frame_cost
from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.model import Model
from tempomask.models.config import MemoryForm, segmenter_config
from tempomask.models.segmenter import Segmenter

TIMED = 4


def seconds_a_frame(model: Model, objects: int) -> float:
    """Median time of a frame with full memories."""
    session = model.session()
    (frame,) = noise(1)
    for number in range(objects):
        x, y = 60 + 75 * (number % 10), 60 + 200 * (number // 10)
        session.prompt(object_id=number + 1, box=(x, y, x + 60, y + 120))
    times = [seconds_of(lambda: session.step(frame)) for _ in range(FULL_FROM + TIMED)]
    return float(np.median(times[FULL_FROM:]))


def measure(name: str, counts: list[int], pooled: bool) -> dict[str, Any]:
    """One curve.

    marginal: of an object beyond the first, in time and in arithmetic, relative to what the first
    one takes beyond the encoder.
    """
    torch.manual_seed(0)
    config = segmenter_config(name)
    segmenter = Segmenter(config.with_memory(MemoryForm()) if pooled else config)
    cost = frame_cost(segmenter)
    dtype = resolve_dtype("auto", torch.device("cpu"))
    model = Model(accelerate(segmenter, dtype), dtype)
    image = torch.zeros(1, 3, config.image_size, config.image_size)
    with torch.inference_mode(), autocast(torch.device("cpu"), dtype):
        encoder = shortest(lambda: model.segmenter.encode(image), 3)
    rows = []
    for count in counts:
        seconds = seconds_a_frame(model, count)
        rows.append({"objects": count, "seconds": round(seconds, 4), "fps": round(1 / seconds, 2)})
        print(name, "pooled" if pooled else "exact", rows[-1], flush=True)
    first, last = rows[0], rows[-1]
    report = {"pooled": pooled, "encoder_seconds": round(encoder, 4), "rows": rows}
    if first["objects"] == 1 and last["objects"] > 1:
        marginal = (last["seconds"] - first["seconds"]) / (last["objects"] - 1)
        single = first["seconds"] - encoder
        attention = cost.memory_attention.total
        # The first layer's self-attention is one for all objects.
        side = config.image_size // 16
        shared = 2 * side**4 * config.hidden_dim + 4 * side**2 * config.hidden_dim**2
        object_cost = attention + cost.decoder.total + cost.memory_encoder.total
        report["marginal_seconds"] = round(marginal, 4)
        report["marginal_share_of_first"] = round(marginal / single, 3)
        report["marginal_share_of_flops"] = round((object_cost - shared) / object_cost, 3)
    return report


def main() -> None:
    command = parser(__doc__)
    command.add_argument("--model", default="sam2.1-tiny")
    command.add_argument("--counts", default="1,2,5,10,20")
    arguments = command.parse_args()
    counts = [int(count) for count in arguments.counts.split(",")]
    curves = [measure(arguments.model, counts, pooled) for pooled in (False, True)]
    report = {"model": arguments.model, "threads": torch.get_num_threads(), "curves": curves}
    exact, pooled = curves
    for row in pooled["rows"]:
        row["times_one_exact"] = round(row["seconds"] / exact["rows"][0]["seconds"], 2)
        row["times_one_pooled"] = round(row["seconds"] / pooled["rows"][0]["seconds"], 2)
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
