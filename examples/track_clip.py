"""Track an object through a video from one click, and save frames with its mask.

python examples/track_clip.py [VIDEO X Y] [--out FOLDER]

Without arguments it follows the flying saucer of the bundled clip.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from clip import VIDEO
from tempomask import Prompt, load
from tempomask.io.overlay import draw_overlay
from tempomask.io.video import open_video


def main(arguments: list[str] | None = None) -> None:
    """Track, and save every twelfth frame."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("video", nargs="?", default=VIDEO)
    parser.add_argument("x", nargs="?", type=float, default=104)
    parser.add_argument("y", nargs="?", type=float, default=92)
    parser.add_argument("--frames", type=int, default=96)
    parser.add_argument("--out", type=Path, default=Path("tracked"))
    given = parser.parse_args(arguments)

    model = load("nano")
    click = Prompt(points=[(given.x, given.y)], labels=[1])
    given.out.mkdir(parents=True, exist_ok=True)
    with open_video(given.video) as images:
        results = model.track(given.video, click, frames=range(given.frames))
        for (index, image), result in zip(images.frames(), results, strict=False):
            if index % 12 == 0:
                drawn = Image.fromarray(draw_overlay(image, result))
                drawn.save(given.out / f"{index:05d}.png")
    print(f"written: {given.out}")


if __name__ == "__main__":
    main()
