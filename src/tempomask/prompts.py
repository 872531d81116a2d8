"""A prompt: what a person says of one object on one frame, validated once.

Shape legend: H x W the video's size.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tempomask.errors import InputError
from tempomask.frames import Size, is_whole
from tempomask.limits import check_limit
from tempomask.schema import shown


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a person says about one object on one frame: points, a box, both, or a mask.

    Masks and boxes may have a leading dimension of one. Arrays are copied and made read-only;
    prompts with the same values are equal.

    Args:
        frame: Index of the frame, from 0.
        object_id: Any whole number, the object's name.
        points: (P, 2), or (2,) for one: (x, y) in pixels of the video, from 0 to W and H, or at
            most one pixel outside.
        labels: (P,), or one for all: 1 on the object and 0 off it; all 1 when left out.
        box: (x0, y0, x1, y1) edges in pixels, x0 < x1; what lies outside the image is cut off.
        mask: (H, W) bool, integers where non-zero is the object, or floats 0 and 1; excludes points
            and box.

    Raises:
        InputError: If the parts do not fit together; `check_inside` compares them with the size of
            the video once that is known.

    Example:
        >>> Prompt(frame=0, object_id=1, points=[(410, 260)], labels=[1]).num_points
        1
    """

    frame: int = 0
    object_id: int = 1
    points: ArrayLike | None = None
    labels: ArrayLike | None = None
    box: ArrayLike | None = None
    mask: ArrayLike | None = None

    def __post_init__(self) -> None:
        for name in ("frame", "object_id"):
            value = getattr(self, name)
            if not is_whole(value):
                raise InputError(f"{name} must be a whole number, got {value!r}")
            if not -(2**63) <= value < 2**63:
                raise InputError(f"{name} must be a number of 64 bits, got {shown(int(value))}")
            object.__setattr__(self, name, int(value))
        if self.frame < 0:
            raise InputError(f"frame must be 0 or more, got {self.frame}")
        if self.points is None and self.box is None and self.mask is None:
            self._refuse("is empty; give points, a box or a mask")
        if self.mask is not None and (self.points is not None or self.box is not None):
            self._refuse("has a mask together with points or a box; give one or the other")
        self._set_points()
        self._set_box()
        self._set_mask()

    def _values(self) -> tuple[Any, ...]:
        parts = (self.points, self.labels, self.box, self.mask)
        arrays = (None if part is None else np.asarray(part) for part in parts)
        kept = (None if array is None else (array.shape, array.tobytes()) for array in arrays)
        return self.frame, self.object_id, *kept

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._values() == other._values()

    def __hash__(self) -> int:
        return hash((self.frame, self.object_id))

    def _refuse(self, what: str) -> None:
        raise InputError(f"the prompt for object {self.object_id} on frame {self.frame} {what}")

    def _set(self, name: str, array: NDArray[Any]) -> None:
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _numbers(self, name: str) -> NDArray[np.float32]:
        try:
            array = np.array(getattr(self, name), dtype=np.float32)
        except (TypeError, ValueError, OverflowError):
            raise InputError(
                f"{name} must be numbers, got {getattr(self, name)!r} for object {self.object_id}"
            ) from None
        if not np.isfinite(array).all():
            self._refuse(f"has {name} that are not finite: {array.tolist()}")
        return array

    def _set_points(self) -> None:
        if self.points is None:
            if self.labels is not None:
                self._refuse("has labels but no points")
            return
        points = self._numbers("points")
        if (
            self.box is not None
            and not points.size
            and (self.labels is None or not np.size(self.labels))
        ):
            # SAM 2 takes empty arrays beside a box.
            object.__setattr__(self, "points", None)
            object.__setattr__(self, "labels", None)
            return
        if points.shape == (2,):
            points = points[None]
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            self._refuse(f"needs points of shape (P, 2) with P >= 1, got {points.shape}")
        check_limit("objects", len(points), f"the list of points of object {self.object_id}")
        labels = np.ones(len(points)) if self.labels is None else self._numbers("labels")
        if labels.ndim == 0:
            labels = np.full(len(points), labels)
        if labels.shape != (len(points),):
            self._refuse(f"has {len(points)} points but labels of shape {labels.shape}")
        if not np.isin(labels, (0, 1)).all():
            self._refuse(f"has labels {labels.tolist()}; use 1 on the object and 0 off it")
        self._set("points", points)
        self._set("labels", labels.astype(np.int64))

    def _set_box(self) -> None:
        if self.box is None:
            return
        box = self._numbers("box")
        if box.shape == (1, 4):
            box = box[0]
        if box.shape != (4,):
            self._refuse(f"needs a box (x0, y0, x1, y1), got shape {box.shape}")
        if box[0] >= box[2] or box[1] >= box[3]:
            self._refuse(f"has a box with no area: {box.tolist()}; x0 < x1 and y0 < y1 must hold")
        self._set("box", box)

    def _set_mask(self) -> None:
        if self.mask is None:
            return
        mask = np.array(self.mask)
        if mask.ndim == 3 and len(mask) == 1:
            mask = mask[0]
        if mask.ndim != 2 or mask.dtype.kind not in "biuf":
            self._refuse(
                f"needs a mask of shape (H, W), bool or integer, got {mask.shape} {mask.dtype}"
            )
        if mask.dtype.kind == "f" and not np.isin(mask, (0, 1)).all():
            self._refuse(
                f"has a mask of {mask.dtype} from {mask.min():g} to {mask.max():g}; mark the object"
                " by a threshold, as in mask > 0.5"
            )
        mask = mask != 0
        if not mask.any():
            self._refuse("has an empty mask; mark at least one pixel")
        self._set("mask", mask)

    @property
    def num_points(self) -> int:
        """Number of points; a box counts as two, as in SAM 2."""
        return (0 if self.points is None else len(np.asarray(self.points))) + 2 * (
            self.box is not None
        )

    @property
    def is_negative_only(self) -> bool:
        """Whether it is made of clicks off the object alone."""
        labels = self.labels
        return self.box is None and labels is not None and not np.asarray(labels).any()

    def check_inside(self, size: Size) -> None:
        """Check the prompt against a video of size (H, W).

        Clicks just outside the border are moved to it, and boxes cut, where they are used.

        Raises:
            InputError: Unless every part fits.
        """
        height, width = size
        video = f"the {width} x {height} image"
        if self.points is not None:
            points = np.asarray(self.points)
            outside = ((points < -1) | (points > (width + 1, height + 1))).any(axis=1)
            if outside.any():
                x, y = points[outside][0].tolist()
                self._refuse(f"has a point ({x:g}, {y:g}) outside {video}")
        if self.box is not None:
            x0, y0, x1, y1 = np.asarray(self.box).tolist()
            if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
                self._refuse(f"has a box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) outside {video}")
        if self.mask is not None and np.shape(self.mask) != (height, width):
            rows, columns = np.shape(self.mask)
            self._refuse(f"has a mask of {columns} x {rows} pixels; it must be as large as {video}")


def check_given(prompts: Iterable[Prompt], known: Collection[int] = ()) -> None:
    """Check that every object begins with something that says where it is.

    Args:
        prompts: In the order in which tracking comes to them.
        known: Objects that are there already.

    Raises:
        InputError: For an object that begins with nothing but clicks off it.
    """
    first: dict[int, int] = {}
    given = set(known)
    for prompt in prompts:
        frame = first.setdefault(prompt.object_id, prompt.frame)
        if frame == prompt.frame and not prompt.is_negative_only:
            given.add(prompt.object_id)
    for object_id, frame in first.items():
        if object_id not in given:
            raise InputError(
                f"object {object_id} has only clicks off it on frame {frame}, its first; add a"
                " click on it there, a box or a mask"
            )
