"""Smooth random motion: affine trajectories, thin-plate-like deformation, and the warp itself.

T frames, H x W pixels of the output, positions in pixels as (x, y).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.data.opencv import cv2

FloatArray = NDArray[np.float32]
ImageArray = NDArray[np.uint8]
Matrix = NDArray[np.float64]

# Velocity a frame of each trajectory parameter at strength 1: log scale, radians, log aspect,
# shear, and the shift in x and y as a share of the stage. Chosen by eye to resemble DAVIS at
# strides of 1 to 5.
STEP = np.array([0.06, 0.10, 0.03, 0.06, 0.05, 0.035])
# A spring of this stiffness a frame squared keeps long trajectories in sight: its period is
# 2 pi / sqrt(0.02), about 44 frames; over a few frames it is not felt.
STIFFNESS = 0.02
# Share of the objects that come back to where they started by the last frame, by a stiffer spring.
RETURNING = 0.2
LONGEST_BLUR = 15  # pixels


class Stage(NamedTuple):
    """Where things move: width x height in true proportions, shown as columns x rows pixels.

    A tracker's network sees frames squeezed to a square; motion is made before the squeeze.
    """

    width: float
    height: float
    columns: int
    rows: int

    @classmethod
    def squeezed(cls, side: int, aspect: float) -> Stage:
        """A stage of the given aspect (width / height), shown as a square."""
        return cls(side * aspect**0.5, side / aspect**0.5, side, side)

    @classmethod
    def plain(cls, columns: int, rows: int) -> Stage:
        """A stage whose units are the pixels of the output."""
        return cls(columns, rows, columns, rows)

    def show(self, matrix: Matrix) -> Matrix:
        """The map (2, 3) into stage units as a map into pixels."""
        return np.diag([self.columns / self.width, self.rows / self.height]) @ matrix


@dataclass(frozen=True)
class Placement:
    """Where an image lands: its `anchor` goes to `target` on the stage, scaled, maybe mirrored.

    frame: the frame at which it is there.
    """

    anchor: tuple[float, float]
    target: tuple[float, float]
    scale: float
    mirrored: bool
    frame: int = 0


def trajectory(rng: np.random.Generator, length: int, strength: float) -> NDArray[np.float64]:
    """(T, 6) in units of STEP: 0 at first, a push, random accelerations, a spring and jitter."""
    returning = length > 2 and rng.random() < RETURNING
    stiffness = (np.pi / (length - 1)) ** 2 if returning else STIFFNESS
    velocity = rng.normal(size=6) * strength * (1.5 if returning else 1.0)
    acceleration = rng.normal(size=(length, 6)) * strength * 0.2
    jitter = rng.normal(size=(length, 6)) * strength * 0.1
    positions = np.zeros((length, 6))
    for step in range(1, length):
        velocity = velocity + acceleration[step] - stiffness * positions[step - 1]
        positions[step] = positions[step - 1] + velocity
    jitter[0] = 0
    return positions + jitter


def affine_path(
    rng: np.random.Generator, length: int, stage: Stage, place: Placement, strength: float
) -> list[Matrix]:
    """T maps (2, 3) from image pixels to the stage, moving smoothly through the placement."""
    parameters = trajectory(rng, length, strength) * STEP
    parameters[:, 4:] -= parameters[place.frame, 4:]
    matrices = []
    for growth, angle, aspect, shear, dx, dy in parameters:
        cos, sin = np.cos(angle), np.sin(angle)
        stretch = np.array([[np.exp(aspect), shear], [0, np.exp(-aspect)]])
        linear = np.array([[cos, -sin], [sin, cos]]) @ stretch * place.scale * np.exp(growth)
        if place.mirrored:
            linear = linear @ np.diag([-1.0, 1.0])
        target = np.array(place.target) + [dx * stage.width, dy * stage.height]
        matrices.append(np.column_stack([linear, target - linear @ np.array(place.anchor)]))
    return matrices


def keep_inside(
    path: Sequence[Matrix], image: tuple[int, ...], stage: Stage, slack: float = 0.03
) -> list[Matrix]:
    """The path of a camera over an image (h, w, ..), magnified and shifted to show no outside.

    slack: share of the stage that may still lie outside, so that motion is less constrained.
    """
    limits = np.array([image[1], image[0]])
    middle = np.array([stage.width, stage.height]) / 2
    reach = middle * (1 - slack)
    inverses = [np.linalg.inv(matrix[:, :2]) for matrix in path]
    half = [np.abs(inverse) @ reach for inverse in inverses]
    # One magnification for the whole clip: a factor for each frame would make it pulse.
    magnify = max(1.0, max(float((2 * extent / limits).max()) for extent in half))
    inside = []
    for matrix, inverse, extent in zip(path, inverses, half, strict=True):
        centre = inverse @ (middle - matrix[:, 2])
        centre = np.clip(centre, extent / magnify, limits - extent / magnify)
        linear = matrix[:, :2] * magnify
        inside.append(np.column_stack([linear, middle - linear @ centre]))
    return inside


def deformation(
    rng: np.random.Generator, length: int, size: tuple[int, int], amplitude: float
) -> list[FloatArray]:
    """T displacement fields (H, W, 2) in pixels, growing and swaying from none; bicubic of a grid.

    amplitude: standard deviation at the end, as a share of each side.
    """
    cells = int(rng.integers(3, 6))
    height, width = size
    scale = np.array([width, height], np.float32) * np.float32(amplitude)
    drift, sway = rng.normal(size=(2, cells, cells, 2)).astype(np.float32) * scale
    fields = []
    for progress in np.linspace(0, 1, length, dtype=np.float32):
        coarse = drift * progress + sway * np.float32(0.7 * np.sin(np.pi * progress))
        fields.append(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC))
    return fields


def warp(
    image: ImageArray,
    matrix: Matrix,
    size: tuple[int, int],
    displacement: FloatArray | None = None,
    empty_border: bool = False,
    origin: tuple[int, int] = (0, 0),
    labels: bool = False,
) -> ImageArray:
    """An image (h, w) or (h, w, 3) under an affine map and a displacement, bilinearly.

    Beyond its edge the image is mirrored, or 0 with empty_border. labels: of ids, the nearest's.
    matrix: from the image to the output; origin: the output's pixel that comes out at (0, 0).
    displacement (H, W, 2): output pixel p shows what the affine map alone puts at p + displacement.
    """
    height, width = size
    flags = cv2.INTER_NEAREST if labels else cv2.INTER_LINEAR
    border = cv2.BORDER_CONSTANT if empty_border else cv2.BORDER_REFLECT_101
    if displacement is None:
        shifted = np.column_stack([matrix[:, :2], matrix[:, 2] - origin])
        return cv2.warpAffine(image, shifted, (width, height), flags=flags, borderMode=border)  # type: ignore[return-value]
    inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
    x = np.arange(origin[0], origin[0] + width, dtype=np.float32) + displacement[..., 0]
    y = np.arange(origin[1], origin[1] + height, dtype=np.float32)[:, None] + displacement[..., 1]
    source = cv2.transform(cv2.merge([x, y]), inverse)
    return cv2.remap(image, source, None, flags, borderMode=border)  # type: ignore


def halved(image: ImageArray, scale: float) -> tuple[ImageArray, int]:
    """The image, halved until it is shown at `scale` without aliasing, and by what it shrank."""
    shrunk = 1
    while scale * shrunk < 0.5 and min(image.shape[:2]) >= 4:
        half = (image.shape[1] // 2, image.shape[0] // 2)
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)  # type: ignore[assignment]
        shrunk *= 2
    return image, shrunk


def motion_kernel(velocity: NDArray[np.float64]) -> FloatArray | None:
    """A line (k, k) of weights that sum to 1: the blur of a velocity in pixels; None when short.

    The shutter is open for half of the time between two frames.
    """
    streak = velocity / 2
    extent = float(np.abs(streak).max())
    if extent < 1.5:
        return None
    streak = streak * min(1.0, (LONGEST_BLUR - 1) / extent)
    radius = int(np.ceil(np.abs(streak).max() / 2 - 1e-6))
    kernel = np.zeros((2 * radius + 1, 2 * radius + 1), np.float32)
    x, y = np.round(streak * 8).astype(int)
    middle = radius * 16
    # Positions in sixteenths of a pixel.
    start, end = (middle - x, middle - y), (middle + x, middle + y)
    cv2.line(kernel, start, end, 1.0, 1, cv2.LINE_8, 4)
    return kernel / kernel.sum()
