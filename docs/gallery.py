"""Clips of the gallery, made from the bundled clip: `python -m docs.gallery`, minutes on a CPU.

Each is an animated WebP of a third of the frames at half the size, a few dozen kilobytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from tempomask import Model, Prompt, load
from tempomask.cli.demo_runs import VIDEO
from tempomask.io.overlay import draw_overlay
from tempomask.io.video import open_video
from tempomask.results import FrameResult

OUT = Path(__file__).parent / "images"
STEP, SIZE, MILLISECONDS = 3, (480, 270), 120
SAUCER_BOX = (53, 42, 158, 139)
SAUCER = Prompt(object_id=1, box=SAUCER_BOX)
ASTRONAUT = Prompt(object_id=2, box=(275, 140, 515, 360))

Image3 = NDArray[np.uint8]
Draw = Callable[[Image3, FrameResult], Image3]


def frames() -> list[Image3]:
    """Every third frame of the clip."""
    with open_video(str(VIDEO)) as video:
        return [frame for index, frame in video.frames() if index % STEP == 0]


def save(
    path: Path,
    model: Model,
    prompts: list[Prompt],
    draw: Draw,
    budget: float | None = None,
    count: int | None = None,
) -> None:
    """Track the frames, or so many of them, draw upon them, and write a smaller animation."""
    shown = frames()[:count]
    results = model.track(shown, prompts, routing=budget)
    drawn = (draw(frame, result) for frame, result in zip(shown, results, strict=True))
    images = [Image.fromarray(image).resize(SIZE, Image.Resampling.LANCZOS) for image in drawn]
    images[0].save(
        path,
        save_all=True,
        append_images=images[1:],
        duration=MILLISECONDS,
        loop=0,
        quality=55,
        method=6,
    )
    print(f"{path}: {path.stat().st_size / 1024:.0f} KiB", flush=True)


def with_box(frame: Image3, result: FrameResult) -> Image3:
    """The mask, and on the first frame the box that started it."""
    image = Image.fromarray(draw_overlay(frame, result, tags=False))
    if result.index == 0:
        ImageDraw.Draw(image).rectangle(SAUCER_BOX, outline="white", width=3)
    return np.asarray(image)


def with_blocks(frame: Image3, result: FrameResult) -> Image3:
    """The mask, and below it a cell for each encoder block, filled where it ran."""
    image = Image.fromarray(draw_overlay(frame, result, tags=False))
    pen, count = ImageDraw.Draw(image), len(result.blocks)
    for index, ran in enumerate(result.blocks):
        left = 16 + 26 * index
        fill = (52, 120, 246) if ran else (210, 214, 220)
        pen.rounded_rectangle((left, 324, left + 21, 345), 4, fill, "white")
    pen.text(
        (24 + 26 * count, 326), f"{result.blocks.sum()} of {count} blocks", "white", font_size=18
    )
    return np.asarray(image)


def main(arguments: list[str] | None = None) -> None:
    """Make all clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=OUT)
    out = parser.parse_args(arguments).out
    model, routed = load("nano"), load("nano", adapter="nano-rds")
    # Until it reaches the rocket, which nano takes for a part of it for a few frames.
    save(out / "track.webp", model, [SAUCER], with_box, count=17)
    save(out / "submodel.webp", routed, [SAUCER], with_blocks, 0.5)
    save(out / "objects.webp", model, [SAUCER, ASTRONAUT], draw_overlay)


if __name__ == "__main__":
    main()
