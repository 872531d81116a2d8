"""The bundled demo clip: a flying saucer of coffee passes behind an astronaut at a launch pad.

Composed from three photographs that scikit-image ships and that anyone may use (see the card,
`src/tempomask/assets/clip/CLIP.md`); every mask is exact, because we drew the image from it. Run
again with `python -m recipes.demo_clip OUT`; needs the `train` extra.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tempomask.data.motion import ImageArray, warp
from tempomask.data.opencv import cv2
from tempomask.data.stills import Cutout
from tempomask.files import make_folder, replacing

WIDTH, HEIGHT, FRAMES, FPS = 640, 360, 96, 24
SIZE = (HEIGHT, WIDTH)
SAUCER = 1

# Outlines drawn by hand on the photographs, in their pixels.
# Centre, axes and angle in degrees, of the saucer and of the rim of the cup.
ELLIPSES = (((277.7, 223.5), (335.8, 407.1), 96.7), ((290.5, 117.8), (200.6, 236.2), 96.7))
SPOON = [
    *[(390, 95), (399, 73), (407, 68), (418, 69), (424, 75), (422, 88), (416, 109), (411, 126)],
    (400, 140),
]
ASTRONAUT = [
    # The arm on the left, the shoulder and the collar.
    *[(33, 511), (27, 480), (24, 462), (22, 440), (21, 420), (19, 397), (22, 380), (25, 360)],
    *[(26, 342), (30, 332), (33, 319), (37, 305), (40, 296), (44, 282), (54, 262), (64, 246)],
    *[(77, 236), (95, 223), (107, 211), (113, 203), (112, 188), (118, 187), (122, 182)],
    *[(128, 171), (137, 161), (148, 153), (161, 149), (175, 148), (185, 148)],
    # The jaw, the ear, the hair, and down the other cheek.
    *[(183, 139), (181, 132), (175, 129), (171, 123), (165, 118), (159, 107), (155, 96)],
    *[(153, 82), (153, 68), (157, 59), (166, 50), (175, 41), (187, 36), (195, 28), (205, 21)],
    *[(218, 18), (232, 15), (248, 17), (262, 22), (271, 30), (284, 37), (293, 50), (297, 64)],
    *[(301, 79), (301, 93), (296, 105), (288, 118), (280, 127), (275, 135), (268, 137)],
    *[(264, 149), (259, 161), (255, 173)],
    # The collar, the shoulder on the right, and the helmet she holds.
    *[(262, 177), (275, 186), (288, 202), (298, 218), (304, 234), (320, 244), (334, 254)],
    *[(343, 266), (347, 277), (351, 284), (355, 300), (357, 317), (363, 332), (365, 348)],
    *[(383, 345), (400, 344), (420, 345), (437, 350), (451, 358), (466, 371), (478, 386)],
    *[(487, 403), (493, 423), (496, 443), (503, 457), (507, 470), (509, 483), (509, 511)],
]


def saucer() -> Cutout:
    """The cup, saucer and spoon of scikit-image's `coffee`."""
    from skimage import data

    image = data.coffee()
    mask = np.zeros(image.shape[:2], np.uint8)
    for ellipse in ELLIPSES:
        cv2.ellipse(mask, ellipse, 1, -1)
    cv2.fillPoly(mask, [np.array(SPOON, np.int32)], 1)
    return _inner(image, mask).cropped()


def astronaut() -> Cutout:
    """Eileen Collins of scikit-image's `astronaut`."""
    from skimage import data

    image = data.astronaut()
    mask = np.zeros(image.shape[:2], np.uint8)
    cv2.fillPoly(mask, [np.array(ASTRONAUT, np.int32)], 1)
    return _inner(image, mask)


def _inner(image: ImageArray, mask: ImageArray) -> Cutout:
    """A pixel less at the outline, so that nothing of the old background shows."""
    return Cutout(image, cv2.erode(mask, np.ones((3, 3), np.uint8), borderValue=1))  # type: ignore


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
        # From the left, a dip behind the astronaut's hair, and back into the open, growing.
        x, y = 105 + 430 * time, 112 - 22 * math.cos(4.83 * time)
        flight = place(
            *(x, y, 0.26 + 0.13 * time, 0.30 * math.sin(5.5 * time), cup),
            squash=0.86 + 0.14 * math.cos(6 * time),
        )
        front = place(395 - 26 * time, 262 + 5 * sway, 0.50, 0.02 * sway, person)
        label = np.zeros(SIZE, np.uint8)
        for cutout, matrix, number in ((cup, flight, SAUCER), (person, front, 0)):
            coverage = warp(cutout.mask * np.uint8(255), matrix, SIZE, empty_border=True)
            coverage = cv2.GaussianBlur(coverage, (3, 3), 0)
            share = (coverage / np.float32(255))[..., None]
            frame += (warp(cutout.image, matrix, SIZE) - frame) * share
            label[coverage > 127] = number
        frames.append(np.clip(frame + 0.5, 0, 255).astype(np.uint8))
        labels.append(label)
    return np.stack(frames), np.stack(labels)


def write(folder: Path) -> None:
    """Write clip.mp4, first_mask.png and masks.npz (packed bits) to a folder."""
    from PIL import Image

    frames, labels = compose()
    make_folder(folder)
    with replacing(folder / "clip.mp4") as part:
        _encode(frames, part)
    with replacing(folder / "first_mask.png") as part:
        Image.fromarray(labels[0] * np.uint8(255)).save(part, format="PNG", optimize=True)
    packed = np.packbits(labels == SAUCER, axis=-1)
    with replacing(folder / "masks.npz") as part, part.open("wb") as file:
        np.savez_compressed(file, packed=packed, shape=np.array(labels.shape))


def _encode(frames: ImageArray, path: Path) -> None:
    import av

    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "21", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write to")
    write(parser.parse_args().out)
