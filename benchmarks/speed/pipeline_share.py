"""How much of tracking a video file is not the network: decoding, resizing, masks, writing.

    python -m benchmarks.speed.pipeline_share dog.mp4 --model sam2.1-tiny --out share.json

Runs the whole of what `tempomask track` does, masks and overlay video included, on a network with
random weights (times do not depend on them), and adds up the time inside its four steps.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import finish, parser
from tempomask.cli.run import Request, Run
from tempomask.cli.tracking_task import TrackingTask
from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.io.video import open_video
from tempomask.model import Model
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt

STEPS = ("encode", "attend", "propose", "encode_memory")


class Clock:
    """Adds up the time inside a network's steps."""

    def __init__(self, segmenter: Segmenter) -> None:
        self.seconds = 0.0
        for name in STEPS:
            setattr(segmenter, name, self._timed(getattr(segmenter, name)))

    def _timed(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            started = time.perf_counter()
            result = step(*arguments, **named)
            self.seconds += time.perf_counter() - started
            return result

        return call


def measure(source: str, name: str, frames: int) -> dict[str, Any]:
    torch.manual_seed(0)
    dtype = resolve_dtype("auto", torch.device("cpu"))
    segmenter = accelerate(Segmenter(segmenter_config(name)), dtype)
    clock = Clock(segmenter)
    model = Model(segmenter, dtype)
    video = open_video(source)
    height, width = video.size
    prompt = Prompt(box=(width // 4, height // 4, width // 2, height // 2))
    with tempfile.TemporaryDirectory() as folder:
        save = frozenset({"masks", "overlay"})
        request = Request(source, Path(folder) / "out", save, start=0, end=frames)
        report, _ = Run(request, TrackingTask([prompt]), video).execute(model)
    whole = float(report["seconds"])
    return {
        "model": name,
        "source_size": [height, width],
        "frames": frames,
        "seconds_a_frame": round(whole / frames, 4),
        "network_seconds_a_frame": round(clock.seconds / frames, 4),
        "share_outside": round(1 - clock.seconds / whole, 4),
    }


def main() -> None:
    command = parser(__doc__)
    command.add_argument("source")
    command.add_argument("--model", default="sam2.1-tiny")
    command.add_argument("--frames", type=int, default=24)
    arguments = command.parse_args()
    report = measure(arguments.source, arguments.model, arguments.frames)
    finish(report, arguments.out)


if __name__ == "__main__":
    main()
