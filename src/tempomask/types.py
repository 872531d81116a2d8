"""What crosses the boundary of the package: a prompt going in, the result of a frame coming out.

Shape legend: H x W the video's size, N objects, h x w low resolution (image_size / 4), L blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tempomask.errors import InputError

if TYPE_CHECKING:
    import supervision

Size = tuple[int, int]

# Where objects may not overlap, the logits of all but the strongest are held at or below this.
OVERLAP_LOGIT = -10.0


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python or NumPy; True and False are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def checked_frame(frame: Any, name: str = "the frame") -> NDArray[np.uint8]:
    """A frame as an array; InputError, with a remedy, unless it is RGB, uint8 (H, W, 3)."""
    try:
        array = np.asarray(frame)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is no array but {type(frame).__name__} ({error}); give NumPy arrays of shape"
            " (H, W, 3), uint8"
        ) from None
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"{name} has shape {array.shape} and type {array.dtype}; give (H, W, 3) uint8 in"
            f" RGB{_remedy(array)}"
        )
    return array


def _remedy(array: NDArray[Any]) -> str:
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        return ": move the channels last"
    if array.ndim == 3 and array.shape[2] == 4:
        return ": drop the fourth channel"
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return ": repeat the grey values three times"
    if array.dtype.kind == "f":
        return ": scale to 0..255 and convert"
    return ": convert with astype(np.uint8)" if array.dtype.kind in "iu" and array.size else ""


@dataclass(frozen=True, eq=False)
class Prompt:
    """What a person says about one object on one frame: points, a box, both, or a mask.

    frame: index of the frame, from 0. object_id: any whole number, the object's name.
    points: (P, 2), or (2,) for one: (x, y) in pixels of the video, from 0 to W and H, or at most
        one pixel outside.
    labels: (P,), or one for all: 1 on the object and 0 off it; all 1 when left out.
    box: (x0, y0, x1, y1) edges in pixels, x0 < x1; what lies outside the image is cut off.
    mask: (H, W) bool, integers where non-zero is the object, or floats 0 and 1; excludes points
        and box.

    Masks and boxes may have a leading dimension of one. Arrays are copied and made read-only;
    prompts with the same values are equal. Raises InputError if the parts do not fit together;
    `check_inside` compares them with the size of the video once that is known.

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
        except (TypeError, ValueError):
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
        if points.shape == (2,):
            points = points[None]
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            self._refuse(f"needs points of shape (P, 2) with P >= 1, got {points.shape}")
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
        """Raise InputError unless every part fits a video of size (H, W).

        Clicks just outside the border are moved to it, and boxes cut, where they are used.
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
    """Raise InputError for an object that begins with nothing but clicks off it.

    prompts: in the order in which tracking comes to them. known: objects that are there already.
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


# What a deferred result delivers, in this order.
DELIVERED = ("low_res_logits", "object_scores", "predicted_iou")
DeliveredArrays = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class FrameResult:
    """The masks of all objects on one frame.

    index: of the frame. size: (H, W). object_ids: N ids, in the order in which they came.
    low_res_logits: float32 (N, h, w), threshold 0.
    object_scores: float32 (N,) logits, > 0 = present.
    predicted_iou: float32 (N,) in [0, 1], the network's own guess of its mask's quality.
    blocks: bool (L,), which encoder blocks ran; all False where no object had to be found.
    non_overlapping: give each pixel to the strongest object only.

    Everything at the video's size is computed when first asked for, then kept. The arrays of a
    tracked frame are copied from an accelerator when first asked for, see `deferred`.
    """

    index: int
    size: Size
    object_ids: tuple[int, ...]
    low_res_logits: NDArray[np.float32]
    object_scores: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    blocks: NDArray[np.bool_]
    non_overlapping: bool = False

    @staticmethod
    def deferred(deliver: Callable[[], DeliveredArrays], **known: Any) -> FrameResult:
        """A result whose arrays are still being computed elsewhere.

        deliver: waits for low_res_logits, object_scores and predicted_iou; called when one of them
        is first asked for, and not before. known: all other fields, non_overlapping among them.
        """
        result = object.__new__(FrameResult)
        result.__dict__.update(known, _deliver=deliver, _delivering=Lock())
        return result

    def __getattr__(self, name: str) -> Any:
        """Only asked for what is not there yet: the arrays of a deferred result."""
        known = self.__dict__
        if "_delivering" not in known or name not in DELIVERED:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        # A result is read by whoever tracks and by the thread that writes.
        with known["_delivering"]:
            if name not in known:
                known.update(zip(DELIVERED, known["_deliver"](), strict=True))
                del known["_deliver"]
        return known[name]

    def __repr__(self) -> str:
        areas = tuple(self.masks.sum(axis=(1, 2)).tolist())
        return (
            f"FrameResult(index={self.index}, size={self.size}, object_ids={self.object_ids},"
            f" areas={areas})"
        )

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled or copied: the arrays, not the way to them."""
        for name in DELIVERED:
            getattr(self, name)
        return {name: value for name, value in self.__dict__.items() if name != "_delivering"}

    @cached_property
    def logits(self) -> NDArray[np.float32]:
        """float32 (N, H, W): the low-resolution logits brought to the video's size bilinearly."""
        import torch
        from torch.nn import functional as F

        if not self.object_ids:
            return np.zeros((0, *self.size), dtype=np.float32)
        low = torch.from_numpy(self.low_res_logits)[:, None]
        logits = F.interpolate(low, size=self.size, mode="bilinear", align_corners=False)
        logits = logits[:, 0].numpy()
        if self.non_overlapping and len(logits) > 1:
            strongest = logits.argmax(axis=0)
            others = strongest[None] != np.arange(len(logits))[:, None, None]
            logits = np.where(others, np.minimum(logits, OVERLAP_LOGIT), logits)
        return logits

    @cached_property
    def masks(self) -> NDArray[np.bool_]:
        """bool (N, H, W): logits above 0."""
        return self.logits > 0

    @cached_property
    def boxes(self) -> NDArray[np.float32]:
        """float32 (N, 4): x0, y0, x1, y1 edges of the masks in pixels (x1, y1 past the last pixel).

        Zeros for an empty mask. A box can be given back as a prompt.
        """
        boxes = np.zeros((len(self.object_ids), 4), dtype=np.float32)
        for box, mask in zip(boxes, self.masks, strict=True):
            rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
            if len(rows):
                box[:] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        return boxes

    @property
    def lost(self) -> NDArray[np.bool_]:
        """bool (N,): nothing was found: the object score is not above 0, or `masks` is empty, which
        with non_overlapping it also is where stronger objects have all of it."""
        return ~self.masks.any(axis=(1, 2)) | (self.object_scores <= 0)

    def label_map(self) -> NDArray[np.int32]:
        """int32 (H, W): the object id of each pixel, 0 for none; overlaps go to the highest logit.

        Raises InputError if an object has the id 0, which means background here.
        """
        if 0 in self.object_ids:
            raise InputError("object id 0 is the background of a label map; use another id")
        labels = np.zeros(self.size, dtype=np.int32)
        if self.object_ids:
            ids = np.asarray(self.object_ids, dtype=np.int32)
            labels = np.where(self.masks.any(axis=0), ids[self.logits.argmax(axis=0)], labels)
        return labels

    def to_supervision(self) -> supervision.Detections:
        """The visible objects as `supervision.Detections`; needs the package supervision.

        confidence is predicted_iou, tracker_id the object id.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision needs `pip install supervision`") from None
        visible = self.masks.any(axis=(1, 2))
        ids = np.asarray(self.object_ids, dtype=int)[visible]
        return supervision.Detections(
            xyxy=self.boxes[visible],
            mask=self.masks[visible],
            confidence=self.predicted_iou[visible],
            class_id=np.zeros(len(ids), dtype=int),
            tracker_id=ids,
        )
