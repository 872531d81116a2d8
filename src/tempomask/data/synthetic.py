"""Synthetic video: cut-outs and drawn shapes that move and occlude each other, exactly masked.

T frames, S side of the square frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.data.motion import (
    ImageArray,
    Placement,
    affine_path,
    deformation,
    warp,
    warp_mask,
)

if TYPE_CHECKING:
    import cv2
else:
    from tempomask.data import opencv as cv2


class Cutout(NamedTuple):
    """A picture (h, w, 3) uint8 and the mask (h, w) of zeros and ones of one object in it."""

    picture: ImageArray
    mask: ImageArray
    category: str = "object"

    def cropped(self) -> Cutout:
        """The cut-out within the mask's bounding box."""
        ys, xs = np.nonzero(self.mask)
        rows, columns = slice(ys.min(), ys.max() + 1), slice(xs.min(), xs.max() + 1)
        return Cutout(self.picture[rows, columns], self.mask[rows, columns], self.category)


class SyntheticVideo(NamedTuple):
    """frames (T, S, S, 3) uint8 RGB; ids (T, S, S) uint8, 0 background, i + 1 for cut-out i."""

    frames: ImageArray
    ids: ImageArray


@dataclass(frozen=True)
class Motion:
    """How much things move: strengths of affine trajectories, amplitude of deformation (of S).

    size: smallest and largest extent of an object as a share of S. blur: its probability.
    """

    background: tuple[float, float] = (0.0, 0.8)
    objects: tuple[float, float] = (0.3, 1.6)
    deformation: float = 0.03
    deforming: float = 0.6
    size: tuple[float, float] = (0.12, 0.75)
    blur: float = 0.2


def compose(
    rng: np.random.Generator,
    background: ImageArray,
    cutouts: Sequence[Cutout],
    length: int,
    side: int,
    motion: Motion | None = None,
) -> SyntheticVideo:
    """Move cut-outs over a moving background; later cut-outs are in front. At most 255 cut-outs."""
    motion = motion or Motion()
    height, width = background.shape[:2]
    place = Placement(
        anchor=(width / 2, height / 2),
        target=(side / 2, side / 2),
        scale=side / min(height, width) * rng.uniform(1.0, 1.5),
        mirrored=bool(rng.random() < 0.5),
    )
    path = affine_path(rng, length, side, place, rng.uniform(*motion.background))
    frames = [warp(background, matrix, side).astype(np.float32) for matrix in path]
    ids = np.zeros((length, side, side), np.uint8)
    for number, cutout in enumerate(cutouts, start=1):
        _paste(rng, frames, ids, number, cutout.cropped(), motion)
    if rng.random() < motion.blur:
        frames = _blur(rng, frames)
    return SyntheticVideo(np.clip(np.stack(frames), 0, 255).astype(np.uint8), ids)


def _paste(
    rng: np.random.Generator,
    frames: list[NDArray[np.float32]],
    ids: ImageArray,
    number: int,
    cutout: Cutout,
    motion: Motion,
) -> None:
    """Draw one cut-out with its own motion over all frames, with a soft edge of about a pixel."""
    length, side = len(frames), ids.shape[1]
    height, width = cutout.mask.shape
    extent = side * np.exp(rng.uniform(*np.log(motion.size)))
    place = Placement(
        anchor=(width / 2, height / 2),
        target=(side * rng.uniform(0.15, 0.85), side * rng.uniform(0.15, 0.85)),
        scale=extent / max(height, width),
        mirrored=bool(rng.random() < 0.5),
    )
    path = affine_path(rng, length, side, place, rng.uniform(*motion.objects))
    fields = [None] * length
    if rng.random() < motion.deforming:
        fields = deformation(rng, length, side, rng.uniform(0, motion.deformation))
    gain = np.float32(np.exp(rng.normal() * 0.12))
    for index, (matrix, field) in enumerate(zip(path, fields, strict=True)):
        coverage = warp_mask(cutout.mask, matrix, side, field)
        picture = warp(cutout.picture, matrix, side, field).astype(np.float32) * gain
        soft = (cv2.GaussianBlur(coverage, (3, 3), 0).astype(np.float32) / 255)[..., None]
        frames[index] += (picture - frames[index]) * soft
        ids[index][coverage > 127] = number


def _blur(rng: np.random.Generator, frames: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
    length = int(rng.integers(3, 8))
    kernel = (length, 1) if rng.random() < 0.5 else (1, length)
    return [cv2.blur(frame, kernel) for frame in frames]  # type: ignore[misc]


def drawn_shape(rng: np.random.Generator, texture: ImageArray, side: int = 128) -> Cutout:
    """An ellipse or polygon, sometimes with a hole, filled from a picture or with a colour field.

    texture: (h, w, 3) with both sides of at least `side`.
    """
    centre = side // 2
    mask = np.zeros((side, side), np.uint8)
    if rng.random() < 0.3:
        axes = tuple(int(a) for a in rng.integers(side // 6, side // 2, size=2))
        cv2.ellipse(mask, (centre, centre), axes, float(rng.uniform(0, 180)), 0, 360, 1, -1)
    else:
        corners = int(rng.integers(3, 11))
        # One corner in each equal sector, so that the polygon is never degenerate.
        angles = (np.arange(corners) + rng.uniform(0.1, 0.9, corners)) * 2 * np.pi / corners
        radius = rng.uniform(0.2, 0.48, corners) * side
        outline = centre + np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None]
        cv2.fillPoly(mask, [outline.astype(np.int32)], 1)
    if rng.random() < 0.15:
        cv2.circle(mask, (centre, centre), side // 10, 0, -1)
    if rng.random() < 0.6:
        y = int(rng.integers(texture.shape[0] - side + 1))
        x = int(rng.integers(texture.shape[1] - side + 1))
        picture = texture[y : y + side, x : x + side]
    else:
        cells = rng.integers(0, 256, (*rng.integers(2, 6, size=2), 3)).astype(np.uint8)
        smooth = cv2.INTER_CUBIC if rng.random() < 0.5 else cv2.INTER_NEAREST
        picture = cv2.resize(cells, (side, side), interpolation=smooth)
    return Cutout(picture, mask, "shape")  # type: ignore[arg-type]


def vary_colour(rng: np.random.Generator, frames: ImageArray) -> ImageArray:
    """One random gain, offset, saturation and tint for a clip (T, S, S, 3), and a slow drift."""
    gain, offset = np.exp(rng.normal() * 0.2), rng.normal() * 12
    saturation = 0.0 if rng.random() < 0.06 else float(np.clip(1 + rng.normal() * 0.3, 0, 2))
    tint = (1 + rng.normal(size=3) * 0.06).astype(np.float32)
    drift = rng.normal() * 0.03
    varied = np.empty_like(frames)
    for index, frame in enumerate(frames):
        value = frame.astype(np.float32)
        grey = value.mean(axis=2, keepdims=True)
        level = np.float32(gain * np.exp(drift * index + rng.normal() * 0.015))
        value = (grey + (value - grey) * np.float32(saturation)) * (tint * level)
        varied[index] = np.clip(value + np.float32(offset), 0, 255)
    return varied
