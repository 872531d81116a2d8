r"""Nothing grows with the length of a video: tracks thousands of frames and measures what is held.

    python -m benchmarks.speed.flat_memory --frames 3000 --out flat_memory.json
    python -m benchmarks.speed.flat_memory --model nano --image-size 128 --frames 10000 \
        --save masks,overlay,rle --out soak.json

Frames come from an iterator, as from a camera; with --save, results are written as by the command
line. Resident memory, open files and threads are sampled every 50 frames; after frame 300 no
memory may differ from that at 300 by more than 3%, and files and threads by no more than two. Exits
with 1 if one does.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext
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
from tempomask.io.journal import VideoInfo
from tempomask.io.writer import ResultWriter
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter

HEIGHT, WIDTH = 240, 426
SAMPLE_EVERY, SETTLED_AFTER, TOLERANCE = 50, 300, 0.03
# A file that is being written, or an encoder's thread, may be there at one sample and not the next.
SLACK = 2


@dataclass(frozen=True)
class Report:
    """Result of one run.

    Sizes in MiB; growth: the largest relative change after frame 300; files and threads: the least
    and the most that were open after it; samples: frame, memory, open files and threads.
    """

    model: str
    dtype: str
    image_size: int
    frames: int
    objects: int
    seconds: float
    settled: float
    largest: float
    growth: float
    files: tuple[int, int]
    threads: tuple[int, int]
    flat: bool
    saved: list[str]
    samples: list[tuple[int, float, int, int]]
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


def sample(index: int) -> tuple[int, float, int, int]:
    """The frame, resident memory in MiB, open files and threads."""
    process = psutil.Process()
    size = round(process.memory_info().rss / 2**20, 1)
    return index, size, process.num_fds(), process.num_threads()


def run(name: str, image_size: int, frames: int, objects: int, save: list[str]) -> Report:
    """Track, write and sample."""
    model = make_model(name, image_size)
    prompts = []
    for number in range(objects):
        y, x = corner(0, number, objects)
        prompts.append(Prompt(0, number + 1, box=(x, y, x + 50, y + 50)))
    samples: list[tuple[int, float, int, int]] = []
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        info = VideoInfo((HEIGHT, WIDTH))
        with ResultWriter(f"{folder}/out", info, save) if save else nullcontext() as writer:
            latest: list[NDArray[np.uint8]] = []

            def shown() -> Iterator[NDArray[np.uint8]]:
                for frame in scene(frames, objects):
                    latest[:] = [frame]
                    yield frame

            for result in model.track(shown(), prompts):
                # What a user would do with a result: look at it, and let it go.
                assert result.masks.shape == (objects, HEIGHT, WIDTH)
                if writer is not None:
                    writer.add(latest[0], result)
                if result.index % SAMPLE_EVERY == 0:
                    samples.append(sample(result.index))
                    if sys.stderr.isatty():
                        sys.stderr.write(f"\rframe {result.index}/{frames}: {samples[-1][1]} MiB ")
    seconds = time.perf_counter() - started
    after = [each for each in samples if each[0] >= SETTLED_AFTER]
    sizes, files, threads = ([each[k] for each in after] for k in (1, 2, 3))
    growth = max(abs(size / sizes[0] - 1) for size in sizes)
    return Report(
        model=name,
        dtype=str(model.dtype).removeprefix("torch."),
        image_size=image_size,
        frames=frames,
        objects=objects,
        seconds=round(seconds, 2),
        settled=sizes[0],
        largest=max(sizes),
        growth=round(growth, 5),
        files=(int(min(files)), int(max(files))),
        threads=(int(min(threads)), int(max(threads))),
        flat=growth <= TOLERANCE
        and all(max(each) - min(each) <= SLACK for each in (files, threads)),
        saved=save,
        samples=samples,
        torch=torch.__version__,
        machine=f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="What is held against video length")
    parser.add_argument("--model", default="random", help='"random" (nano, untrained) or a name')
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--objects", type=int, default=2)
    parser.add_argument("--save", default="", help="formats to write, with commas between")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if arguments.frames <= SETTLED_AFTER + SAMPLE_EVERY:
        parser.error(f"--frames must be more than {SETTLED_AFTER + SAMPLE_EVERY}")
    report = run(
        arguments.model,
        arguments.image_size,
        arguments.frames,
        arguments.objects,
        [name for name in arguments.save.split(",") if name],
    )
    if arguments.out is not None:
        write_json(arguments.out, asdict(report))
    print(
        f"{report.frames} frames, {report.objects} objects: {report.settled} MiB at frame"
        f" {SETTLED_AFTER}, at most {report.largest} MiB after it ({report.growth:.2%},"
        f" {'flat' if report.flat else 'NOT flat'}); {report.files[0]} to {report.files[1]} open"
        f" files, {report.threads[0]} to {report.threads[1]} threads;"
        f" {report.frames / report.seconds:.1f} FPS"
    )
    return 0 if report.flat else 1


if __name__ == "__main__":
    sys.exit(main())
