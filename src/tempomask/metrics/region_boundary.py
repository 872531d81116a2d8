"""Region similarity J and boundary accuracy F of DAVIS (Perazzi et al. 2016, section 5).

Equal to the public `vos-benchmark` package. All objects of some frames are scored at once, as
bitmaps (`bitmaps.py`) of their common neighbourhoods: M objects, H x W pixels, T frames.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.metrics.bitmaps import boundaries, count, dilate, pack

Mask = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]
Scores = NDArray[np.float64]

# Boundary pixels match within this share of the image's diagonal, rounded up to whole pixels.
BOUND_SHARE = 0.008
# The same for MOSEv2, of the square root of the object's area.
ADAPTIVE_SHARE = 0.1
# Recall counts frames above this score; decay compares the first and the last of so many parts.
RECALL_THRESHOLD = 0.5
DECAY_PARTS = 4
# Up to this id, looking for each one is faster than sorting.
_FEW_IDS = 32
# Objects scored at once; more would no longer fit the processor's cache.
_BATCH = 16


@dataclass(frozen=True)
class Statistics:
    """Of scores of frames: mean, share above 0.5, mean of the first quarter minus the last's."""

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


# What is reported, under the names that papers use.
SCORES: dict[str, Callable[[ObjectScore], float]] = {
    "J&F": attrgetter("mean"),
    "J": attrgetter("region.mean"),
    "F": attrgetter("boundary.mean"),
    "J_recall": attrgetter("region.recall"),
    "F_recall": attrgetter("boundary.recall"),
    "J_decay": attrgetter("region.decay"),
    "F_decay": attrgetter("boundary.decay"),
}


@dataclass(frozen=True)
class RegionBoundaryResult:
    """Scores of the objects that count, and the ids predicted that are not among them."""

    objects: tuple[ObjectScore, ...]
    ignored_ids: tuple[int, ...] = ()

    def scores(self) -> dict[str, float]:
        """By the names of `SCORES`, averaged over objects as DAVIS does; NaN without any."""
        if not self.objects:
            return dict.fromkeys(SCORES, math.nan)
        averages = {
            name: float(np.mean([value(score) for score in self.objects]))
            for name, value in SCORES.items()
        }
        return averages | {"J&F": (averages["J"] + averages["F"]) / 2}

    @property
    def mean(self) -> float:
        """J&F."""
        return self.scores()["J&F"]


class RegionBoundary:
    """Accumulates J and F over frames: `update`, then `compute`.

    >>> metric = RegionBoundary()
    >>> truth = np.zeros((20, 20), np.int32); truth[5:15, 5:15] = 1
    >>> metric.update(truth, truth)
    >>> metric.compute().mean
    1.0
    """

    def __init__(self, object_ids: Iterable[int] | None = None) -> None:
        """Begin without frames.

        Args:
            object_ids: The objects that count, on every frame; predictions of others are ignored
                (the DAVIS protocol, with the objects of the first annotation). By default the
                objects that the ground truth shows, each from the frame on where it or a prediction
                of it is first seen (the rule of vos-benchmark, for data where objects come later).
        """
        self._fixed = None if object_ids is None else tuple(int(i) for i in object_ids)
        self.reset()

    def reset(self) -> None:
        """Forget all frames."""
        self._true: set[int] = set(self._fixed or ())
        self._predicted: set[int] = set()
        self._region: dict[int, list[float]] = {}
        self._boundary: dict[int, list[float]] = {}

    def update(self, prediction: Labels, truth: Labels) -> None:
        """Score one frame, or several consecutive ones.

        Args:
            prediction: Label maps (H, W) or (T, H, W), integers, 0 for background.
            truth: Likewise.

        Raises:
            InputError: The shapes differ or are others.
        """
        _check_shapes(prediction, truth)
        if prediction.ndim > 3:
            raise InputError(f"label maps are (H, W) or (T, H, W), got shape {prediction.shape}")
        pairs, ids = self._pairs(_compact(prediction), _compact(truth))
        for object_id, region, boundary in zip(ids, *_scores(pairs), strict=True):
            self._region.setdefault(object_id, []).append(float(region))
            self._boundary.setdefault(object_id, []).append(float(boundary))

    def compute(self) -> RegionBoundaryResult:
        """Scores so far, objects in ascending order."""
        seen = sorted(self._true & self._region.keys())
        parts = [(i, self._region[i], self._boundary[i]) for i in seen]
        scores = [ObjectScore(i, statistics(j), statistics(f), len(j)) for i, j, f in parts]
        return RegionBoundaryResult(tuple(scores), tuple(sorted(self._predicted - self._true)))

    def _pairs(self, prediction: Labels, truth: Labels) -> tuple[list[_Pair], list[int]]:
        """One pair for each frame and object that counts, and the objects' ids."""
        pairs, ids = [], []
        for predicted, true in zip(_flat(prediction), _flat(truth), strict=True):
            self._predicted |= _ids(predicted)
            if self._fixed is None:
                self._true |= _ids(true)
            counted = sorted(self._true | self._predicted) if self._fixed is None else self._fixed
            pairs += [_Pair(predicted, true, object_id) for object_id in counted]
            ids += counted
        return pairs, ids


def region_and_boundary(prediction: Mask, truth: Mask) -> tuple[Scores, Scores]:
    """J and F of masks bool (..., H, W), each float64 (...).

    Two empty masks score 1; an empty one and another score 0.
    """
    _check_shapes(prediction, truth)
    flat = zip(_flat(prediction), _flat(truth), strict=True)
    region, boundary = _scores([_Pair(p, t, True) for p, t in flat])
    return region.reshape(prediction.shape[:-2]), boundary.reshape(prediction.shape[:-2])


def adaptive_scores(prediction: Mask, truth: Mask) -> dict[str, Scores]:
    """J, F and the adaptive F of MOSEv2 of N pairs of masks bool (N, H, W), each float64 (N,).

    "J" counts one pixel more in intersection and union. "F_new" lets boundaries lie apart by a
    tenth of the square root of the true object's area, and at most 0.008 of the diagonal; that
    bound is not rounded where it holds, and then "F" has it too (MOSEv2's metricsv2.py).
    """
    _check_shapes(prediction, truth)
    # The disk of a smaller radius would be empty.
    bound = max(BOUND_SHARE * math.hypot(*truth.shape[-2:]), 1.0)
    found: dict[str, list[float]] = {"J": [], "F": [], "F_new": []}
    for predicted, true in zip(prediction, truth, strict=True):
        union = int((predicted | true).sum())
        overlap, area = int((predicted & true).sum()), int(true.sum())
        found["J"].append((overlap + 1) / (union + 1) if union else 1.0)
        radius = math.ceil(ADAPTIVE_SHARE * math.sqrt(area)) if area else bound
        pair = [_Pair(predicted, true, True)]
        narrow = radius < bound
        found["F_new"].append(float(_scores(pair, min(radius, bound))[1][0]))
        classic = _scores(pair, math.ceil(bound))[1][0] if narrow else found["F_new"][-1]
        found["F"].append(float(classic))
    return {name: np.asarray(values, np.float64) for name, values in found.items()}


def statistics(scores: Sequence[float]) -> Statistics:
    """Mean, recall and decay of the scores of consecutive frames (at least one)."""
    values = np.asarray(scores, dtype=np.float64)
    # Limits of the parts as in the DAVIS code, where numbers above 255 wrapped around; here not.
    limits = np.round(np.linspace(1, len(values), DECAY_PARTS + 1) + 1e-10).astype(int) - 1
    first = values[limits[0] : limits[1] + 1].mean()
    last = values[limits[-2] : limits[-1] + 1].mean()
    recall = (values > RECALL_THRESHOLD).mean()
    return Statistics(float(values.mean()), float(recall), float(first - last))


class _Pair(NamedTuple):
    """One object on one frame: its pixels are those of two maps (H, W) that equal `value`."""

    prediction: NDArray[Any]
    truth: NDArray[Any]
    value: int | bool


# Rows top to bottom and columns left to right, ends excluded: top, left, bottom, right.
_Window = tuple[int, int, int, int]


def _scores(pairs: Sequence[_Pair], radius: float | None = None) -> tuple[Scores, Scores]:
    """J and F of pairs of maps of one size; radius: of the boundaries, None for DAVIS's."""
    region, boundary = np.ones(len(pairs)), np.ones(len(pairs))
    windows = [_window(pair) for pair in pairs]
    visible = [k for k, window in enumerate(windows) if window is not None]
    for start in range(0, len(visible), _BATCH):
        batch = visible[start : start + _BATCH]
        masks = _cut([pairs[k] for k in batch], [w for k in batch if (w := windows[k])])
        if radius is None:
            radius = math.ceil(BOUND_SHARE * math.hypot(*pairs[0].truth.shape))
        region[batch], boundary[batch] = _score_masks(masks, radius)
    return region, boundary


def _window(pair: _Pair) -> _Window | None:
    """The bounding box of an object in both maps, with one pixel around it; None if it is in none.

    Boundaries lie at most one pixel to the upper left of the object, so that all is inside.
    """
    joint = pair.prediction == pair.value
    joint |= pair.truth == pair.value
    rows = np.flatnonzero(joint.any(axis=1))
    if len(rows) == 0:
        return None
    columns = np.flatnonzero(joint[rows[0] : rows[-1] + 1].any(axis=0))
    height, width = joint.shape
    top, left = max(int(rows[0]) - 1, 0), max(int(columns[0]) - 1, 0)
    return top, left, min(int(rows[-1]) + 2, height), min(int(columns[-1]) + 2, width)


def _cut(pairs: Sequence[_Pair], windows: Sequence[_Window]) -> Mask:
    """Masks bool (2, M, h, w), predicted and true, cut out at the windows grown to one size.

    Windows stay inside the image, so that their last row and column are those of the image or
    hold no object.
    """
    rows, columns = pairs[0].truth.shape
    height = max(bottom - top for top, _, bottom, _ in windows)
    width = max(right - left for _, left, _, right in windows)
    masks = np.empty((2, len(pairs), height, width), dtype=bool)
    for place, (pair, window) in enumerate(zip(pairs, windows, strict=True)):
        top, left = min(window[0], rows - height), min(window[1], columns - width)
        cut = slice(top, top + height), slice(left, left + width)
        np.equal(pair.prediction[cut], pair.value, out=masks[0, place])
        np.equal(pair.truth[cut], pair.value, out=masks[1, place])
    return masks


def _score_masks(masks: Mask, radius: float) -> tuple[Scores, Scores]:
    """J and F of masks bool (2, M, h, w), predicted and true; no pair is empty on both sides."""
    number, height, width = masks.shape[1:]
    bits = pack(masks.reshape(-1, height, width), math.ceil(radius) + 1)
    edges = boundaries(bits, width)
    reached = dilate(edges, radius)
    areas, lengths = count(bits), count(edges)
    overlap = count(bits[:number] & bits[number:])
    region = overlap / (areas[:number] + areas[number:] - overlap)
    # Boundary pixels with a pixel of the other boundary within the radius.
    matched = count(edges & np.concatenate((reached[number:], reached[:number])))
    precision, recall = (matched / np.maximum(lengths, 1)).reshape(2, number)
    total = precision + recall
    boundary = np.where(total > 0, 2 * precision * recall / np.where(total > 0, total, 1), 0.0)
    # A mask that fills the image has no boundary; two without one agree.
    boundary[(lengths[:number] == 0) & (lengths[number:] == 0)] = 1.0
    return region, boundary


def _check_shapes(prediction: NDArray[Any], truth: NDArray[Any]) -> None:
    if prediction.shape != truth.shape or prediction.ndim < 2:
        raise InputError(
            f"the prediction has shape {prediction.shape}, the ground truth {truth.shape}; they"
            " must be equally large"
        )


def _flat(maps: NDArray[Any]) -> NDArray[Any]:
    """Maps (..., H, W) as (number, H, W)."""
    number = math.prod(maps.shape[:-2])
    return maps.reshape(number, *maps.shape[-2:])


def _compact(labels: NDArray[Any]) -> NDArray[Any]:
    """Label maps as uint8 where the ids allow it: comparing them takes a quarter of the time."""
    if labels.dtype.itemsize > 1 and labels.min(initial=0) >= 0 and labels.max(initial=0) < 256:
        return labels.astype(np.uint8)
    return labels


def _ids(labels: NDArray[Any]) -> set[int]:
    """The ids in a label map but the background's."""
    largest = int(labels.max(initial=0))
    if labels.dtype == np.uint8 and largest <= _FEW_IDS:
        return {i for i in range(1, largest + 1) if (labels == i).any()}
    return set(np.unique(labels).tolist()) - {0}
