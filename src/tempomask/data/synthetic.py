"""Synthetic video: cut-outs that move, deform and occlude each other, with exact masks.

T frames of H x W pixels. A pixel belongs to the frontmost object that covers more than half of it,
where coverage has the soft edge and the motion blur of the image itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tempomask.data.motion import (
    FloatArray,
    ImageArray,
    Matrix,
    Placement,
    Stage,
    affine_path,
    deformation,
    keep_inside,
    motion_kernel,
    warp,
)
from tempomask.data.opencv import cv2
from tempomask.data.stills import Cutout
from tempomask.errors import InputError

MOST_OBJECTS = 255
# A small cut-out is not enlarged more than this, or its pixels would show.
LARGEST_SCALE = 2.0


class LabelledVideo(NamedTuple):
    """frames (T, H, W, 3) uint8 RGB; ids (T, H, W) uint8, 0 background, i + 1 for cut-out i.

    categories: of the cut-outs, in that order; a cut-out may be out of sight in every frame.
    """

    frames: ImageArray
    ids: ImageArray
    categories: tuple[str, ...] = ()


@dataclass(frozen=True)
class Motion:
    """How much things move; strengths are in the units of `motion.STEP`.

    background, objects: least and greatest strength; deforming: share of objects that deform, by an
    amplitude up to `deformation` (of the frame); size: least and greatest extent of an object (of
    the frame's shorter side on the stage); crossing: share of objects made to pass over an earlier
    one; outside: share of objects that start out of sight or leave it; returning: share of those
    that leave and come back within the clip; blur: share of moving things
    drawn with motion blur; lighting: standard deviation of an object's log brightness.
    """

    background: tuple[float, float] = (0.0, 0.8)
    objects: tuple[float, float] = (0.3, 1.8)
    deforming: float = 0.6
    deformation: float = 0.03
    size: tuple[float, float] = (0.15, 0.9)
    crossing: float = 0.35
    outside: float = 0.12
    returning: float = 0.0
    blur: float = 0.25
    lighting: float = 0.12


def compose(
    rng: np.random.Generator,
    background: ImageArray,
    cutouts: Sequence[Cutout],
    length: int,
    stage: Stage,
    motion: Motion | None = None,
) -> LabelledVideo:
    """Move cut-outs over a moving background (h, w, 3); later cut-outs are in front.

    InputError for more than 255 cut-outs, or one whose mask is empty.
    """
    motion = motion or Motion()
    frames = moving_image(rng, background, length, stage, motion)
    return paste(rng, frames, cutouts, stage, motion)


def moving_image(
    rng: np.random.Generator, image: ImageArray, length: int, stage: Stage, motion: Motion
) -> ImageArray:
    """Frames (T, H, W, 3) of a camera that moves over an image (h, w, 3) and stays inside it."""
    height, width = image.shape[:2]
    place = Placement(
        anchor=(width * rng.uniform(0.3, 0.7), height * rng.uniform(0.3, 0.7)),
        target=(stage.width / 2, stage.height / 2),
        scale=max(stage.width / width, stage.height / height) * rng.uniform(1.0, 1.5),
        mirrored=bool(rng.random() < 0.5),
    )
    path = affine_path(rng, length, stage, place, rng.uniform(*motion.background))
    path = keep_inside(path, image.shape, stage)
    frames = np.stack([warp(image, stage.show(m), (stage.rows, stage.columns)) for m in path])
    if rng.random() < motion.blur:
        middle = np.array([width / 2, height / 2, 1.0])
        blur_along(frames, [stage.show(matrix) @ middle for matrix in path])
    return frames


def blur_along(frames: ImageArray, positions: Sequence[np.ndarray]) -> None:
    """Blur each frame in place along the motion of a point (x, y) through the clip."""
    for frame, velocity in zip(frames, velocities(positions), strict=True):
        kernel = motion_kernel(velocity)
        if kernel is not None:
            frame[:] = cv2.filter2D(frame, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def velocities(positions: Sequence[np.ndarray]) -> np.ndarray:
    """(T, 2) velocity at each of T positions; zero for a single one."""
    points = np.stack(positions)
    return np.gradient(points, axis=0) if len(points) > 1 else np.zeros_like(points)


def paste(
    rng: np.random.Generator,
    frames: ImageArray,
    cutouts: Sequence[Cutout],
    stage: Stage,
    motion: Motion,
) -> LabelledVideo:
    """Draw moving cut-outs over frames (T, H, W, 3), which are changed; later ones are in front."""
    if len(cutouts) > MOST_OBJECTS:
        raise InputError(f"{len(cutouts)} cut-outs in one video; at most {MOST_OBJECTS}")
    ids = np.zeros(frames.shape[:3], np.uint8)
    tracks: list[np.ndarray] = []
    for number, cutout in enumerate(cutouts, start=1):
        if not cutout.mask.any():
            raise InputError(f"cut-out {number} has an empty mask")
        actor = _Actor(rng, cutout, len(frames), stage, motion, tracks)
        tracks.append(np.stack([matrix @ [*actor.middle, 1] for matrix in actor.path]))
        for index in range(len(frames)):
            actor.draw(index, frames[index], ids[index], number)
    return LabelledVideo(frames, ids, tuple(cutout.category for cutout in cutouts))


class _Actor:
    """One cut-out with its motion, ready to be drawn."""

    def __init__(
        self,
        rng: np.random.Generator,
        cutout: Cutout,
        length: int,
        stage: Stage,
        motion: Motion,
        tracks: Sequence[np.ndarray],
    ) -> None:
        whole = cutout.cropped()
        side = min(stage.width, stage.height)
        extent = side * np.exp(rng.uniform(*np.log(motion.size)))
        reduced, scale = whole.reduced(min(LARGEST_SCALE, extent / max(whole.mask.shape)))
        gain = float(np.exp(rng.normal() * motion.lighting))
        lit = cv2.convertScaleAbs(reduced.image, alpha=gain)
        # An empty border of a pixel, so that the outline is as soft where the image ends.
        self.image: ImageArray = cv2.copyMakeBorder(  # type: ignore[assignment]
            lit, 1, 1, 1, 1, cv2.BORDER_REPLICATE
        )
        self.coverage = np.pad(reduced.mask * np.uint8(255), 1)
        rows, columns = self.coverage.shape
        self.middle = (columns / 2, rows / 2)
        strength = rng.uniform(*motion.objects)
        self.stage = stage
        place = self._place(rng, scale, length, motion, tracks)
        self.path = affine_path(rng, length, stage, place, strength)
        if motion.returning and length > 3 and rng.random() < motion.returning:
            self._leave_and_return(rng, extent)
        self.fields: list[FloatArray] | None = None
        if rng.random() < motion.deforming:
            amplitude = rng.uniform(0, motion.deformation)
            self.fields = deformation(rng, length, (stage.rows, stage.columns), amplitude)
        self.shown = [stage.show(matrix) for matrix in self.path]
        self.blurred = rng.random() < motion.blur
        self.velocity = velocities([matrix @ [*self.middle, 1] for matrix in self.shown])

    def _leave_and_return(self, rng: np.random.Generator, extent: float) -> None:
        """Shift the path out of the stage, to the left or right, and back: most in mid-clip."""
        far = self.stage.width * rng.uniform(0.5, 1.0) + extent
        away = far if rng.random() < 0.5 else -far
        middle, width = rng.uniform(0.3, 0.8), rng.uniform(0.15, 0.3)
        for progress, matrix in zip(np.linspace(0, 1, len(self.path)), self.path, strict=True):
            near = max(0.0, 1 - abs(progress - middle) / width)
            matrix[0, 2] += away * near if progress else 0.0

    def _place(
        self,
        rng: np.random.Generator,
        scale: float,
        length: int,
        motion: Motion,
        tracks: Sequence[np.ndarray],
    ) -> Placement:
        """In sight at first; or passing over an earlier object; or outside at first or at last."""
        stage, frame = self.stage, 0
        x, y = rng.uniform(0.15, 0.85, size=2) * [stage.width, stage.height]
        if tracks and rng.random() < motion.crossing:
            frame = int(rng.integers(length))
            x, y = tracks[int(rng.integers(len(tracks)))][frame]
        elif rng.random() < motion.outside:
            frame = int(rng.choice([0, length - 1]))
            reach = scale * max(self.coverage.shape) / 2
            x = -reach * 0.6 if rng.random() < 0.5 else stage.width + reach * 0.6
        mirrored = bool(rng.random() < 0.5)
        return Placement(self.middle, (float(x), float(y)), scale, mirrored, frame)

    def draw(self, index: int, frame: ImageArray, ids: ImageArray, number: int) -> None:
        """Blend the cut-out into a frame (H, W, 3) and write its number into ids (H, W)."""
        matrix = self.shown[index]
        field = None if self.fields is None else self.fields[index]
        kernel = motion_kernel(self.velocity[index]) if self.blurred else None
        box = self._box(matrix, field, 2 if kernel is None else 2 + len(kernel))
        if box is None:
            return
        x0, y0, x1, y1 = box
        size = (y1 - y0, x1 - x0)
        if field is not None:
            field = field[y0:y1, x0:x1]
        image = warp(self.image, matrix, size, field, origin=(x0, y0))
        coverage = warp(self.coverage, matrix, size, field, empty_border=True, origin=(x0, y0))
        if kernel is not None:
            image = cv2.filter2D(image, -1, kernel)
            coverage = cv2.filter2D(coverage, -1, kernel)
        coverage = cv2.GaussianBlur(coverage, (3, 3), 0)
        alpha = coverage.astype(np.float32) / np.float32(255)
        part = frame[y0:y1, x0:x1]
        part[:] = cv2.blendLinear(image, part, alpha, 1 - alpha)
        ids[y0:y1, x0:x1][coverage > 127] = number

    def _box(
        self, matrix: Matrix, field: FloatArray | None, margin: int
    ) -> tuple[int, int, int, int] | None:
        """The part x0, y0, x1, y1 of the frame that the cut-out can touch, if any."""
        rows, columns = self.coverage.shape
        corners = matrix @ np.array([[0, columns, 0, columns], [0, 0, rows, rows], [1, 1, 1, 1]])
        reach = np.zeros(2) if field is None else np.abs(field).reshape(-1, 2).max(axis=0)
        limits = np.array([self.stage.columns, self.stage.rows])
        low = np.clip(np.floor(corners.min(axis=1) - reach - margin), 0, limits).astype(int)
        high = np.clip(np.ceil(corners.max(axis=1) + reach + margin), 0, limits).astype(int)
        if (high - low).min() < 1:
            return None
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])
