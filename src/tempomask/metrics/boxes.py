"""Scores of box tracking, by the protocols of OTB, LaSOT and GOT-10k.

Success, precision and normalised precision; for GOT-10k average overlap and success rates.
Boxes are (x, y, w, h), T of them, one for each frame; zeros say "lost". The protocols are those of
the usual Python toolkits, which differ in what they count: see `BoxProtocol`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tempomask.errors import InputError
from tempomask.frames import Size

Floats = NDArray[np.float64]

# Success is drawn over overlaps in steps of 0.05, up to 1, which no overlap exceeds: a perfect
# tracker has an AUC of 20/21.
OVERLAP_THRESHOLDS: Floats = np.arange(21, dtype=np.float64) * 0.05
CENTRE_THRESHOLDS: Floats = np.arange(51, dtype=np.float64)
NORMALISED_THRESHOLDS: Floats = np.arange(51, dtype=np.float64) / 100
# Where the precision curves are read: 20 pixels, 0.2 of the box.
PRECISION_PLACE = 20


@dataclass(frozen=True)
class BoxProtocol:
    """What is counted, and how.

    Attributes:
        first_frame: It counts, as correct (it was given).
        absent: Frames without the object count as misses in the curves; else they are left out.
        hold_lost: Where a prediction is lost, the last box before it stands.
        clip: Boxes are cut at the edge of the image.
        pooled: The mean is over the frames of all sequences, not over the sequences.
    """

    first_frame: bool = True
    absent: bool = True
    hold_lost: bool = True
    clip: bool = False
    pooled: bool = False


PROTOCOLS = {
    "lasot": BoxProtocol(),
    "lasot-ext": BoxProtocol(),
    "trackingnet": BoxProtocol(),
    "otb": BoxProtocol(),
    "nfs": BoxProtocol(),
    # Frames whose true box is NaN are left out, as the GOT-10k toolkit does.
    "uav123": BoxProtocol(absent=False),
    "got10k": BoxProtocol(first_frame=False, absent=False, hold_lost=False, clip=True, pooled=True),
}


@dataclass(frozen=True, eq=False)
class BoxScore:
    """Scores of the frames that count, of one sequence or of several.

    Attributes:
        overlaps: IoU in [0, 1], -1 where the object is absent.
        centre_errors: Distance of the centres in pixels, infinite where absent.
        normalised_errors: The same in widths and heights of the true box.
    """

    overlaps: Floats
    centre_errors: Floats
    normalised_errors: Floats

    def __len__(self) -> int:
        return len(self.overlaps)

    @property
    def success_curve(self) -> Floats:
        """(21,): share of frames with an overlap above each of OVERLAP_THRESHOLDS."""
        return (self.overlaps[:, None] > OVERLAP_THRESHOLDS).mean(axis=0)

    @property
    def precision_curve(self) -> Floats:
        """(51,): share of frames with centres within 0, 1 ... 50 pixels."""
        return (self.centre_errors[:, None] <= CENTRE_THRESHOLDS).mean(axis=0)

    @property
    def normalised_precision_curve(self) -> Floats:
        """(51,): the same within 0, 0.01 ... 0.5 of the true box."""
        return (self.normalised_errors[:, None] <= NORMALISED_THRESHOLDS).mean(axis=0)

    def success_rate(self, threshold: float) -> float:
        """Share of frames with an overlap above a threshold (SR of GOT-10k)."""
        return float((self.overlaps > threshold).mean())

    @property
    def result(self) -> BoxResult:
        """The numbers that are reported."""
        present = self.overlaps[self.overlaps >= 0]
        return BoxResult(
            success=float(self.success_curve.mean()),
            precision=float(self.precision_curve[PRECISION_PLACE]),
            normalised_precision=float(self.normalised_precision_curve[PRECISION_PLACE]),
            average_overlap=float(present.mean()) if len(present) else 0.0,
            success_rate_50=self.success_rate(0.5),
            success_rate_75=self.success_rate(0.75),
        )


@dataclass(frozen=True)
class BoxResult:
    """Scores in [0, 1].

    Attributes:
        success: Area under the success curve (AUC).
        precision: Share of frames with centres within 20 pixels.
        normalised_precision: Share of frames with centres within 0.2 of the true box.
        average_overlap: Mean overlap where the object is present (AO of GOT-10k), 0 if it never is.
        success_rate_50: Share of frames with an overlap above 0.5 (SR of GOT-10k).
        success_rate_75: The same above 0.75.
    """

    success: float
    precision: float
    normalised_precision: float
    average_overlap: float
    success_rate_50: float
    success_rate_75: float


@dataclass
class BoxMetric:
    """Collects sequences: `update` with each, then `compute`.

    >>> metric = BoxMetric(PROTOCOLS["otb"])
    >>> _ = metric.update([[0, 0, 10, 10], [5, 0, 10, 10]], [[0, 0, 10, 10], [0, 0, 10, 10]])
    >>> round(metric.compute().average_overlap, 4)
    0.6667
    """

    protocol: BoxProtocol
    scores: list[BoxScore] = field(default_factory=list)

    def update(
        self,
        predicted: ArrayLike,
        truth: ArrayLike,
        visible: ArrayLike | None = None,
        size: Size | None = None,
    ) -> BoxScore:
        """Score one sequence; see `score_boxes`."""
        self.scores.append(score_boxes(self.protocol, predicted, truth, visible, size))
        return self.scores[-1]

    def compute(self) -> BoxResult:
        """The mean over all sequences, or over all their frames. InputError without any."""
        counted = [score for score in self.scores if len(score)]
        if not counted:
            raise InputError("no frame was scored; sequences need frames with the object in view")
        if self.protocol.pooled:
            arrays = zip(*(vars(score).values() for score in counted), strict=True)
            return BoxScore(*(np.concatenate(parts) for parts in arrays)).result
        rows = [vars(score.result) for score in counted]
        return BoxResult(**{name: float(np.mean([row[name] for row in rows])) for name in rows[0]})

    def reset(self) -> None:
        """Forget all sequences."""
        self.scores.clear()


def score_boxes(
    protocol: BoxProtocol,
    predicted: ArrayLike,
    truth: ArrayLike,
    visible: ArrayLike | None = None,
    size: Size | None = None,
) -> BoxScore:
    """Compare predicted with true boxes; a true box without area counts as absent.

    Args:
        protocol: What is counted.
        predicted: (T, 4) as x, y, w, h.
        truth: (T, 4) likewise.
        visible: (T,) bool, the object is there; None where the boxes say it.
        size: (H, W) of the images, for clipping.

    Raises:
        InputError: The shapes are others, a side is negative, or a number is not finite.
    """
    ours, theirs = _checked("predicted", predicted), _checked("true", truth)
    if len(ours) != len(theirs):
        raise InputError(f"{len(ours)} predicted boxes for {len(theirs)} frames; give one a frame")
    present = np.asarray((theirs[:, 2:] > 0).all(axis=1))
    present &= True if visible is None else np.asarray(visible, dtype=bool)
    if protocol.hold_lost:
        ours = _held(ours)
    if protocol.clip and size is not None:
        ours, theirs = _clipped(ours, size), _clipped(theirs, size)
    counted = np.ones(len(theirs), dtype=bool) if protocol.absent else present.copy()
    if protocol.first_frame:
        ours[:1] = theirs[:1]
    else:
        counted[:1] = False
    distance = ours[:, :2] + ours[:, 2:] / 2 - theirs[:, :2] - theirs[:, 2:] / 2
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shares = distance / theirs[:, 2:]
    overlaps = np.where(present, box_iou(ours, theirs), -1.0)
    errors = np.where(present, np.hypot(*distance.T), np.inf)
    normalised = np.where(present, np.hypot(*shares.T), np.inf)
    return BoxScore(overlaps[counted], errors[counted], normalised[counted])


def box_iou(a: Floats, b: Floats) -> Floats:
    """IoU (T,) of boxes (T, 4), x, y, w, h; 0 where both have no area."""
    low = np.maximum(a[:, :2], b[:, :2])
    high = np.minimum(a[:, :2] + a[:, 2:], b[:, :2] + b[:, 2:])
    common = np.clip(high - low, 0, None).prod(axis=1)
    own, other = a[:, 2:].prod(axis=1), b[:, 2:].prod(axis=1)
    # Of a thin box far from 0, the rounded corners may hold more than the box itself.
    common = np.minimum(common, np.minimum(own, other))
    union = own + other - common
    return np.divide(common, union, out=np.zeros_like(common), where=union > 0)


def _checked(what: str, boxes: ArrayLike) -> Floats:
    array = np.array(boxes, dtype=np.float64)
    if array.ndim != 2 or array.shape[1] != 4:
        raise InputError(f"{what} boxes must be (T, 4), x, y, w, h, got shape {array.shape}")
    problems = {"is not finite": ~np.isfinite(array), "has a negative side": array[:, 2:] < 0}
    for text, wrong in problems.items():
        if wrong.any():
            frame = int(np.argwhere(wrong)[0, 0])
            raise InputError(f"the {what} box of frame {frame} {text}: {array[frame].tolist()}")
    return array


def _held(boxes: Floats) -> Floats:
    """Boxes without area replaced by the last before them."""
    held = boxes.copy()
    for index in range(1, len(held)):
        if (held[index, 2:] == 0).any():
            held[index] = held[index - 1]
    return held


def _clipped(boxes: Floats, size: Size) -> Floats:
    low = np.clip(boxes[:, :2], 0, size[::-1])
    high = np.clip(boxes[:, :2] + boxes[:, 2:], 0, size[::-1])
    return np.concatenate([low, high - low], axis=1)
