"""Memory does not grow with the length of a video: tracks thousands of frames and measures it.

    python -m benchmarks.speed.flat_memory --frames 3000 --out flat_memory.json

Frames come from an iterator, as from a camera. Resident memory is sampled every 50 frames; after
frame 300 no sample may differ from the one at 300 by more than 3%. Exits with 1 if one does.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import psutil
import torch
from numpy.typing import NDArray

from tempomask import Model, Prompt, load
from tempomask.devices import resolve_dtype
from tempomask.engine import accelerate
from tempomask.files import write_json
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter

HEIGHT, WIDTH = 240, 426
SAMPLE_EVERY, SETTLED_AFTER, TOLERANCE = 50, 300, 0.03


@dataclass(frozen=True)
class Report:
    """Result of one run. Sizes in MiB; growth: the largest relative change after frame 300."""

    model: str
    dtype: str
    image_size: int
    frames: int
    objects: int
    seconds: float
    settled: float
    largest: float
    growth: float
    flat: bool
    samples: list[tuple[int, float]]
    torch: str
    machine: str


def scene(length: int, objects: int) -> Iterator[NDArray[np.uint8]]:
    """Textured squares that circle over a drifting textured background."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 160, (HEIGHT, 2 * WIDTH, 3), dtype=np.uint8)
    patches = rng.integers(120, 256, (objects, 50, 50, 3), dtype=np.uint8)
    for t in range(length):
        frame = background[:, t % WIDTH : t % WIDTH + WIDTH].copy()
        for number, patch in enumerate(patches):
            y, x = corner(t, number, objects)
            frame[y : y + 50, x : x + 50] = patch
        yield frame


def corner(t: int, number: int, objects: int) -> tuple[int, int]:
    """Top left of a square at time t."""
    angle = 0.05 * t + 2 * np.pi * number / objects
    return int(95 + 80 * np.sin(angle)), int(188 + 160 * np.cos(angle))


def make_model(name: str, image_size: int) -> Model:
    """A model by name, of the fast engine; "random" is nano's network with random weights."""
    if name != "random":
        return load(name, image_size=image_size, device="cpu")
    torch.manual_seed(0)
    dtype = resolve_dtype("auto", torch.device("cpu"))
    segmenter = Segmenter(segmenter_config("nano").with_image_size(image_size))
    return Model(accelerate(segmenter, dtype), dtype)


def resident() -> float:
    return psutil.Process().memory_info().rss / 2**20


def run(name: str, image_size: int, frames: int, objects: int) -> Report:
    """Track and sample."""
    model = make_model(name, image_size)
    prompts = []
    for number in range(objects):
        y, x = corner(0, number, objects)
        prompts.append(Prompt(0, number + 1, box=(x, y, x + 50, y + 50)))
    samples: list[tuple[int, float]] = []
    started = time.perf_counter()
    for result in model.track(scene(frames, objects), prompts):
        # What a user would do with a result: look at it, and let it go.
        assert result.masks.shape == (objects, HEIGHT, WIDTH)
        if result.index % SAMPLE_EVERY == 0:
            samples.append((result.index, resident()))
            if sys.stderr.isatty():
                sys.stderr.write(f"\rframe {result.index}/{frames}: {samples[-1][1]:.0f} MiB ")
    seconds = time.perf_counter() - started
    after = [size for index, size in samples if index >= SETTLED_AFTER]
    growth = max(abs(size / after[0] - 1) for size in after)
    return Report(
        model=name,
        dtype=str(model.dtype).removeprefix("torch."),
        image_size=image_size,
        frames=frames,
        objects=objects,
        seconds=round(seconds, 2),
        settled=round(after[0], 1),
        largest=round(max(after), 1),
        growth=round(growth, 5),
        flat=growth <= TOLERANCE,
        samples=[(index, round(size, 1)) for index, size in samples],
        torch=torch.__version__,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Memory against video length")
    parser.add_argument("--model", default="random", help='"random" (nano, untrained) or a name')
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.frames <= SETTLED_AFTER + SAMPLE_EVERY:
        parser.error(f"--frames must be more than {SETTLED_AFTER + SAMPLE_EVERY}")
    report = run(arguments.model, arguments.image_size, arguments.frames, arguments.objects)
    if arguments.out is not None:
        write_json(arguments.out, asdict(report))
    print(
        f"{report.frames} frames, {report.objects} objects: {report.settled} MiB at frame"
        f" {SETTLED_AFTER}, at most {report.largest} MiB after it ({report.growth:.2%},"
        f" {'flat' if report.flat else 'NOT flat'}); {report.frames / report.seconds:.1f} FPS"
    )
    return 0 if report.flat else 1


if __name__ == "__main__":
    sys.exit(main())
