"""Smooth random motion: affine trajectories, thin-plate-like deformation, and the warp itself.

T frames, S side of the square output, positions in pixels as (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import cv2
else:
    from tempomask.data import opencv as cv2

FloatArray = NDArray[np.float32]
ImageArray = NDArray[np.uint8]

# Step of one trajectory parameter a frame at strength 1: log scale, radians, log aspect, shear, and
# the shift in x and y as a share of the side. Chosen by eye to resemble DAVIS at strides 1 to 5.
STEP = np.array([0.06, 0.10, 0.03, 0.06, 0.05, 0.035])


@dataclass(frozen=True)
class Placement:
    """Where a picture lands: its `anchor` goes to `target`, scaled by `scale`, maybe mirrored."""

    anchor: tuple[float, float]
    target: tuple[float, float]
    scale: float
    mirrored: bool


def trajectory(rng: np.random.Generator, length: int, strength: float) -> NDArray[np.float64]:
    """(T, 6) parameters in units of STEP: velocity, acceleration, a little jitter; 0 at first."""
    time = np.arange(length)[:, None]
    velocity, acceleration = rng.normal(size=(2, 1, 6)) * strength
    jitter = rng.normal(size=(length, 6)) * strength * 0.15
    jitter[0] = 0
    return time * velocity + 0.05 * time**2 * acceleration + jitter


def affine_path(
    rng: np.random.Generator, length: int, side: int, place: Placement, strength: float
) -> list[NDArray[np.float64]]:
    """T matrices (2, 3) from picture to output pixels, moving smoothly away from the placement."""
    matrices = []
    for growth, angle, aspect, shear, dx, dy in trajectory(rng, length, strength) * STEP:
        cos, sin = np.cos(angle), np.sin(angle)
        stretch = np.array([[np.exp(aspect), shear], [0, np.exp(-aspect)]])
        linear = np.array([[cos, -sin], [sin, cos]]) @ stretch * place.scale * np.exp(growth)
        if place.mirrored:
            linear = linear @ np.diag([-1.0, 1.0])
        target = np.array(place.target) + np.array([dx, dy]) * side
        matrices.append(np.column_stack([linear, target - linear @ np.array(place.anchor)]))
    return matrices


def deformation(
    rng: np.random.Generator, length: int, side: int, amplitude: float
) -> list[FloatArray]:
    """T displacement fields (S, S, 2) in pixels, growing and swaying from none."""
    cells = int(rng.integers(3, 6))
    drift, sway = rng.normal(size=(2, cells, cells, 2)).astype(np.float32) * amplitude * side
    fields = []
    for progress in np.linspace(0, 1, length):
        coarse = drift * progress + 0.7 * sway * np.sin(np.pi * progress)
        fields.append(
            cv2.resize(coarse.astype(np.float32), (side, side), interpolation=cv2.INTER_CUBIC)
        )
    return fields


def warp(
    image: ImageArray,
    matrix: NDArray[np.float64],
    side: int,
    displacement: FloatArray | None = None,
    empty_border: bool = False,
) -> ImageArray:
    """A picture (h, w) or (h, w, 3) under an affine map and a displacement, bilinearly.

    Beyond its edge the picture is mirrored, or 0 with empty_border.
    """
    border = cv2.BORDER_CONSTANT if empty_border else cv2.BORDER_REFLECT_101
    if displacement is None:
        return cv2.warpAffine(
            image, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=border
        )  # type: ignore[return-value]
    inverse = cv2.invertAffineTransform(matrix).astype(np.float32)
    x = np.arange(side, dtype=np.float32) + displacement[..., 0]
    y = np.arange(side, dtype=np.float32)[:, None] + displacement[..., 1]
    source_x = inverse[0, 0] * x + inverse[0, 1] * y + inverse[0, 2]
    source_y = inverse[1, 0] * x + inverse[1, 1] * y + inverse[1, 2]
    return cv2.remap(image, source_x, source_y, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[return-value]


def warp_mask(
    mask: ImageArray,
    matrix: NDArray[np.float64],
    side: int,
    displacement: FloatArray | None = None,
) -> ImageArray:
    """Coverage 0..255 (S, S) of a binary mask (h, w) under the same map; 0 beyond its edge."""
    return warp(mask * np.uint8(255), matrix, side, displacement, empty_border=True)
