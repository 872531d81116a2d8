"""Region similarity J and boundary accuracy F of the DAVIS benchmark (Perazzi et al. 2016, section 5).

Equal to the public `vos-benchmark` package, but only the neighbourhood of an object is looked at, and
instead of dilating a boundary everywhere, its pixels within the disk around each pixel of the other
boundary are counted from running sums of its rows.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError

LabelMap = NDArray[np.integer]
Mask = NDArray[np.bool_]

# Boundary pixels match within this share of the picture's diagonal, rounded up to whole pixels.
BOUND_SHARE = 0.008
# Recall counts frames above this score; decay compares the first and the last of so many parts.
RECALL_THRESHOLD = 0.5
DECAY_PARTS = 4
# Up to this id, looking for each one is faster than sorting.
FEW_IDS = 32


@dataclass(frozen=True)
class Statistics:
    """mean, recall (share of frames above 0.5) and decay (first quarter minus last), in [0, 1]."""

    mean: float
    recall: float
    decay: float


@dataclass(frozen=True)
class ObjectScore:
    """Scores of one object over the frames that count."""

    object_id: int
    region: Statistics
    boundary: Statistics
    frames: int

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region.mean + self.boundary.mean) / 2


@dataclass(frozen=True)
class RegionBoundaryResult:
    """Scores of every object; the properties average over objects, as DAVIS does."""

    objects: tuple[ObjectScore, ...]

    @property
    def region(self) -> float:
        """J, mean over objects; NaN without any."""
        return _mean(score.region.mean for score in self.objects)

    @property
    def boundary(self) -> float:
        """F, mean over objects; NaN without any."""
        return _mean(score.boundary.mean for score in self.objects)

    @property
    def mean(self) -> float:
        """J&F."""
        return (self.region + self.boundary) / 2


class RegionBoundary:
    """Accumulates J and F frame by frame over label maps.

    object_ids: which objects count; by default those in the ground truth, each from the frame on
    where it is first seen in the ground truth or a prediction, as vos-benchmark has it.

    >>> metric = RegionBoundary()
    >>> truth = np.zeros((20, 20), np.int32); truth[5:15, 5:15] = 1
    >>> metric.update(truth, truth)
    >>> metric.compute().mean
    1.0
    """

    def __init__(self, object_ids: Iterable[int] | None = None) -> None:
        self._fixed = None if object_ids is None else tuple(object_ids)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._seen: set[int] = set(self._fixed or ())
        self._true: set[int] = set(self._fixed or ())
        self._region: dict[int, list[float]] = {}
        self._boundary: dict[int, list[float]] = {}

    def update(self, prediction: LabelMap, truth: LabelMap) -> None:
        """Score one frame: label maps (H, W) of equal size, 0 for background.

        Raises InputError if the sizes differ.
        """
        if prediction.shape != truth.shape:
            raise InputError(
                f"the prediction has shape {prediction.shape}, the ground truth {truth.shape}"
            )
        if self._fixed is None:
            in_truth = _ids(truth)
            self._true |= in_truth
            self._seen |= in_truth | _ids(prediction)
        for object_id in self._seen:
            region, boundary = region_and_boundary(prediction == object_id, truth == object_id)
            self._region.setdefault(object_id, []).append(region)
            self._boundary.setdefault(object_id, []).append(boundary)

    def compute(self) -> RegionBoundaryResult:
        """Scores so far, objects in ascending order."""
        return RegionBoundaryResult(
            tuple(
                ObjectScore(
                    object_id,
                    statistics(self._region[object_id]),
                    statistics(self._boundary[object_id]),
                    len(self._region[object_id]),
                )
                for object_id in sorted(self._true)
                if object_id in self._region
            )
        )


def region_and_boundary(prediction: Mask, truth: Mask) -> tuple[float, float]:
    """J and F of one object in one frame, masks bool (H, W)."""
    window = _window(prediction | truth)
    if window is None:
        return 1.0, 1.0
    radius = math.ceil(BOUND_SHARE * math.hypot(*truth.shape))
    bottom, right = window[0].stop == truth.shape[0], window[1].stop == truth.shape[1]
    near, wanted = prediction[window], truth[window]
    region = np.count_nonzero(near & wanted) / np.count_nonzero(near | wanted)
    boundary = boundary_accuracy(
        boundary_map(near, bottom, right), boundary_map(wanted, bottom, right), radius
    )
    return region, boundary


def _window(mask: Mask) -> tuple[slice, slice] | None:
    """The bounding box of a mask with one pixel around it, cut at the picture; None if empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    height, width = mask.shape
    return (
        slice(max(rows[0] - 1, 0), min(rows[-1] + 2, height)),
        slice(max(columns[0] - 1, 0), min(columns[-1] + 2, width)),
    )


def boundary_map(mask: Mask, at_bottom: bool = True, at_right: bool = True) -> Mask:
    """Pixels of a mask (H, W) that differ from their right, lower or lower right neighbour.

    The last row looks right only and the last column down only, as in the benchmark's code;
    at_bottom and at_right say whether the mask's edges are those of the picture.
    """
    padded = np.pad(mask, ((0, 1), (0, 1)))
    here, right, below = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1]
    edge = (here ^ right) | (here ^ below) | (here ^ padded[1:, 1:])
    if at_bottom:
        edge[-1] = mask[-1] ^ right[-1]
    if at_right:
        edge[:, -1] = mask[:, -1] ^ below[:, -1]
    if at_bottom and at_right:
        edge[-1, -1] = False
    return edge


def boundary_accuracy(prediction: Mask, truth: Mask, radius: int) -> float:
    """F of two boundary maps (H, W): the harmonic mean of precision and recall."""
    predicted, true = np.nonzero(prediction), np.nonzero(truth)
    if len(predicted[0]) == 0 or len(true[0]) == 0:
        # One side empty gives precision 1 and recall 0 or the other way round; both empty is right.
        return float(len(predicted[0]) == len(true[0]))
    precision = _matched(predicted, truth, radius)
    recall = _matched(true, prediction, radius)
    return 0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def _matched(pixels: tuple[NDArray[np.intp], ...], others: Mask, radius: int) -> float:
    """Share of the pixels (rows, columns) with a pixel of `others` (H, W) within the radius."""
    height, width = others.shape
    # running[y + radius, x + radius + 1] counts the pixels of row y up to and including column x.
    running = np.zeros((height + 2 * radius, width + 2 * radius + 1), np.int16)
    inner = running[radius : radius + height, radius + 1 : radius + 1 + width]
    np.cumsum(others, axis=1, out=inner, dtype=np.int16)
    running[:, radius + 1 + width :] = running[:, radius + width, None]
    stride = running.shape[1]
    flat = running.ravel()
    centre = (pixels[0] + radius) * stride + pixels[1] + radius
    for offset in sorted(range(-radius, radius + 1), key=abs):
        half = math.isqrt(radius**2 - offset**2)
        row = centre + offset * stride
        # Pixels that found a partner need not look at further rows.
        centre = centre[flat[row + half + 1] == flat[row - half]]
        if len(centre) == 0:
            break
    return 1.0 - len(centre) / len(pixels[0])


def statistics(scores: list[float]) -> Statistics:
    """Mean, recall and decay of the scores of consecutive frames (at least one)."""
    values = np.array(scores)
    # Part limits as in the DAVIS code, where numbers above 255 frames wrapped around; here not.
    limits = np.round(np.linspace(1, len(values), DECAY_PARTS + 1) + 1e-10).astype(int) - 1
    first = values[limits[0] : limits[1] + 1].mean()
    last = values[limits[-2] : limits[-1] + 1].mean()
    return Statistics(
        float(values.mean()), float((values > RECALL_THRESHOLD).mean()), float(first - last)
    )


def _ids(labels: LabelMap) -> set[int]:
    """The ids in a label map but the background's; a few comparisons beat sorting all pixels."""
    largest = int(labels.max(initial=0))
    if labels.dtype == np.uint8 and largest <= FEW_IDS:
        return {i for i in range(1, largest + 1) if (labels == i).any()}
    return set(np.unique(labels).tolist()) - {0}


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return float(np.mean(listed)) if listed else math.nan
