"""The bundled demo clip: a flying saucer of coffee passes behind an astronaut at a launch pad.

Composed from three photographs that scikit-image ships and that anyone may use (see the card in
`assets/clip/CLIP.md`); every mask is exact, because we drew the picture from it. Run again with
`python -m tempomask.data.demo_clip OUT`; needs the `train` extra.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tempomask.data.motion import ImageArray, warp
from tempomask.data.stills import Cutout

if TYPE_CHECKING:
    import cv2
else:
    from tempomask.data import opencv as cv2

WIDTH, HEIGHT, FRAMES, FPS = 640, 360, 96, 24
SIZE = (HEIGHT, WIDTH)
SAUCER = 1

# Outlines drawn by hand on the photographs, in their pixels.
SAUCER_ELLIPSE = ((279, 238), (203, 149), 5)
RIM_ELLIPSE = ((292, 98), (119, 82), 8)
CUP_OUTLINE = [(176, 95), (410, 110), (395, 200), (330, 290), (240, 280), (190, 180)]
SPOON_OUTLINE = [(385, 100), (415, 66), (422, 90), (405, 130)]
ASTRONAUT_INSIDE = [
    *[(170, 120), (200, 30), (280, 40), (290, 100), (270, 120), (255, 180), (350, 300)],
    *[(440, 360), (490, 470), (500, 511), (60, 511), (50, 420), (120, 260), (130, 200), (200, 190)],
]
ASTRONAUT_OUTSIDE = [
    [(0, 0), (110, 0), (130, 60), (140, 140), (100, 210), (30, 330), (0, 511)],
    [(310, 0), (511, 0), (511, 340), (460, 345), (380, 340), (310, 240), (320, 180), (300, 150)],
    [(155, 112), (165, 112), (180, 150), (178, 165), (150, 150)],
    [(278, 130), (296, 116), (292, 196), (264, 180), (258, 170)],
    [(505, 380), (511, 350), (511, 400)],
]


def saucer() -> Cutout:
    """The cup and saucer of scikit-image's `coffee`."""
    from skimage import data

    picture = data.coffee()
    mask = np.zeros(picture.shape[:2], np.uint8)
    for ellipse in (SAUCER_ELLIPSE, RIM_ELLIPSE):
        cv2.ellipse(mask, *ellipse, 0, 360, 1, -1)
    for outline in (CUP_OUTLINE, SPOON_OUTLINE):
        cv2.fillPoly(mask, [np.array(outline, np.int32)], 1)
    return Cutout(picture, mask).cropped()


def astronaut() -> Cutout:
    """Eileen Collins of scikit-image's `astronaut`, cut out by GrabCut from hand-drawn hints."""
    from skimage import data

    picture = data.astronaut()
    mask = np.full(picture.shape[:2], cv2.GC_BGD, np.uint8)
    mask[5:, 15:] = cv2.GC_PR_FGD
    cv2.fillPoly(mask, [np.array(ASTRONAUT_INSIDE, np.int32)], cv2.GC_FGD)
    for outline in ASTRONAUT_OUTSIDE:
        cv2.fillPoly(mask, [np.array(outline, np.int32)], cv2.GC_BGD)
    cv2.setRNGSeed(1)
    models = np.zeros((1, 65)), np.zeros((1, 65))
    bgr = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
    cv2.grabCut(bgr, mask, None, *models, 8, cv2.GC_INIT_WITH_MASK)  # type: ignore[call-overload]
    inside = np.isin(mask, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    return Cutout(picture, inside)


def place(
    x: float, y: float, scale: float, angle: float, cutout: Cutout, squash: float = 1.0
) -> NDArray[np.float64]:
    """Matrix that puts the centre of a cut-out at (x, y), turned and scaled; squash flattens it."""
    height, width = cutout.mask.shape
    cos, sin = math.cos(angle), math.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.diag([scale, scale * squash])
    return np.column_stack([linear, np.array([x, y]) - linear @ [width / 2, height / 2]])


def compose() -> tuple[ImageArray, ImageArray]:
    """frames (96, 360, 640, 3) uint8 RGB, label maps (96, 360, 640): 1 where the saucer shows."""
    from skimage import data

    sky, cup, person = data.rocket(), saucer(), astronaut()
    backdrop = Cutout(sky, np.ones(sky.shape[:2], np.uint8))
    frames, labels = [], []
    for index in range(FRAMES):
        time = index / (FRAMES - 1)
        sway = math.sin(2 * math.pi * time)
        zoom = 1.12 + 0.06 * time
        behind = place(320 - 20 * time, 168 + 6 * sway, zoom, 0.01 * sway, backdrop)
        frame = warp(sky, behind, SIZE).astype(np.float32)
        # From the left, a dip, behind the astronaut's head, and back into the open, growing.
        x, y = 105 + 430 * time, 140 - 48 * math.cos(4.83 * time)
        flight = place(
            *(x, y, 0.26 + 0.13 * time, 0.30 * math.sin(5.5 * time), cup),
            squash=0.86 + 0.14 * math.cos(6 * time),
        )
        front = place(395 - 26 * time, 262 + 5 * sway, 0.50, 0.02 * sway, person)
        label = np.zeros(SIZE, np.uint8)
        for cutout, matrix, number in ((cup, flight, SAUCER), (person, front, 0)):
            coverage = warp(cutout.mask * np.uint8(255), matrix, SIZE, empty_border=True)
            soft = (cv2.GaussianBlur(coverage, (3, 3), 0) / 255.0).astype(np.float32)[..., None]
            frame += (warp(cutout.picture, matrix, SIZE) - frame) * soft
            label[coverage > 127] = number
        frames.append(np.clip(frame, 0, 255).astype(np.uint8))
        labels.append(label)
    return np.stack(frames), np.stack(labels)


def write(out: Path) -> None:
    """Write clip.mp4, first_mask.png and masks.npz (packed bits) to a folder."""
    import av
    from PIL import Image

    frames, labels = compose()
    out.mkdir(parents=True, exist_ok=True)
    with av.open(str(out / "clip.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    Image.fromarray(labels[0] * np.uint8(255)).save(out / "first_mask.png", optimize=True)
    packed = np.packbits(labels == SAUCER, axis=-1)
    np.savez_compressed(out / "masks.npz", packed=packed, shape=np.array(labels.shape))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    write(parser.parse_args().out)
