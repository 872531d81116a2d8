"""Average precision and recall of video instance segmentation, by the YouTube-VIS protocol.

Tracks are matched by class within a video on their overlap through time (`tube_overlap.py`), best
score first, at ten thresholds; precision is averaged over 101 levels of recall, then over classes
(Yang et al. 2019, section 5). A: area ranges, R: 10 thresholds, D predictions and G true tracks of
one class in one video.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.metrics.tube_overlap import Tube, boundary_tube, tube_areas, tube_overlaps

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_LEVELS = np.linspace(0.0, 1.0, 101)
# Tracks of a class counted in a video, best first.
LIMITS = (1, 10, 100)
# Least and greatest mean area in pixels over the frames on which a track is seen.
AREA_RANGES = {
    "all": (0.0, 1e10),
    "small": (0.0, 128.0**2),
    "medium": (128.0**2, 256.0**2),
    "large": (256.0**2, 1e10),
}
_RANGES = list(AREA_RANGES)


@dataclass(frozen=True, eq=False)
class TrueTrack:
    """What is to be found.

    Attributes:
        category_id: Of its class.
        masks: T entries, None where it is not seen.
        area: Mean area in pixels, None to take it from the masks.
        is_crowd: A group, which may be found or not, and by several predictions.
    """

    category_id: int
    masks: Tube
    area: float | None = None
    is_crowd: bool = False


@dataclass(frozen=True, eq=False)
class PredictedTrack:
    """What was found, with T masks as in `TrueTrack`; the higher the score, the surer."""

    category_id: int
    masks: Tube
    score: float


@dataclass(frozen=True)
class CategoryScore:
    """Of one class, in [0, 1]; NaN where there is no track of the class to find.

    Attributes:
        category_id: The class.
        precision: By area range (R,), averaged over the recall levels.
        recall: By area range and limit, averaged over thresholds.
        tracks: To be found.
    """

    category_id: int
    precision: Mapping[str, NDArray[np.float64]]
    recall: Mapping[tuple[str, int], float]
    tracks: int

    @property
    def ap(self) -> float:
        """Over all areas and thresholds."""
        return float(self.precision["all"].mean())


@dataclass(frozen=True)
class VideoAPResult:
    """Scores in [0, 1], averaged over the classes that have tracks; NaN where none has any."""

    categories: tuple[CategoryScore, ...]

    @property
    def ap(self) -> float:
        """AP: over the thresholds 0.5, 0.55 ... 0.95."""
        return self.average_precision()

    def average_precision(self, area: str = "all", threshold: float | None = None) -> float:
        """AP of an area range (of `AREA_RANGES`), at one threshold or over all of them."""
        values = [score.precision[area] for score in self.categories]
        if threshold is not None:
            place = int(np.abs(THRESHOLDS - threshold).argmin())
            values = [value[place] for value in values]
        return _mean([float(np.mean(value)) for value in values])

    def average_recall(self, limit: int = 100, area: str = "all") -> float:
        """AR of an area range with at most so many predictions (of `LIMITS`) by class and video."""
        return _mean([score.recall[area, limit] for score in self.categories])

    @property
    def tracks(self) -> int:
        """To be found, in all classes."""
        return sum(score.tracks for score in self.categories)

    def to_dict(self) -> dict[str, float]:
        """The twelve numbers of the official evaluator, in percent."""
        scores = {"AP": self.ap}
        scores |= {f"AP{100 * t:.0f}": self.average_precision(threshold=t) for t in (0.5, 0.75)}
        for area in _RANGES[1:]:
            scores[f"AP_{area}"] = self.average_precision(area)
        for limit in LIMITS:
            scores[f"AR{limit}"] = self.average_recall(limit)
        for area in _RANGES[1:]:
            scores[f"AR_{area}"] = self.average_recall(area=area)
        return {name: 100 * score for name, score in scores.items()}


@dataclass
class ClassMatches:
    """Of one class, one entry for each video with a track of it, to be found or predicted.

    scores: (D,). hits, ignored: bool (A, R, D). counted: (A,), tracks to be found. videos: numbers
    of the updates.
    """

    scores: list[NDArray[np.float64]] = field(default_factory=list)
    hits: list[NDArray[np.bool_]] = field(default_factory=list)
    ignored: list[NDArray[np.bool_]] = field(default_factory=list)
    counted: list[NDArray[np.int64]] = field(default_factory=list)
    videos: list[int] = field(default_factory=list)


class VideoAP:
    """Accumulates the tracks of one video after the other: `update`, then `compute`.

    Predictions of classes that do not count are ignored, as officially. Equal scores rank in the
    order in which they came, so that videos should come by ascending id.

    Attributes:
        category_ids: The classes that count.
        boundary: Tube-boundary AP (HQ-YTVIS, Ke et al. 2022): two tracks overlap as their masks or
            as the boundaries of these do, whichever is less; groups as their masks alone.
        videos: How many there have been.

    >>> metric = VideoAP([1])
    >>> mask = {"size": [2, 2], "counts": "0120"}
    >>> metric.update([TrueTrack(1, [mask])], [PredictedTrack(1, [mask], 0.9)])
    >>> metric.compute().ap
    1.0
    """

    def __init__(self, category_ids: Iterable[int], *, boundary: bool = False) -> None:
        self.category_ids, self.boundary = sorted(set(category_ids)), boundary
        self.reset()

    def reset(self) -> None:
        """Forget all videos."""
        self.videos = 0
        self._matches = {category: ClassMatches() for category in self.category_ids}

    def update(self, truth: Sequence[TrueTrack], predictions: Sequence[PredictedTrack]) -> None:
        """Add one video; InputError for a true track of another class, or a score that is NaN."""
        for track in truth:
            if track.category_id not in self._matches:
                raise InputError(f"a true track of class {track.category_id} that does not count")
        for prediction in predictions:
            if not math.isfinite(prediction.score):
                raise InputError(f"a prediction has the score {prediction.score}")
        for category, matches in self._matches.items():
            wanted = [track for track in truth if track.category_id == category]
            found = [track for track in predictions if track.category_id == category]
            if wanted or found:
                found = sorted(found, key=lambda track: -track.score)[: LIMITS[-1]]
                _match_video(matches, wanted, found, self.boundary)
                matches.videos.append(self.videos)
        self.videos += 1

    def compute(self) -> VideoAPResult:
        """The scores of all videos so far."""
        return VideoAPResult(tuple(_category_score(c, m) for c, m in self._matches.items()))


def _match_video(
    matches: ClassMatches,
    truth: Sequence[TrueTrack],
    predictions: Sequence[PredictedTrack],
    boundary: bool,
) -> None:
    """Match the tracks of one class in one video, predictions by descending score."""
    tubes = [p.masks for p in predictions], [t.masks for t in truth]
    overlaps = tube_overlaps(*tubes)
    crowds = np.array([track.is_crowd for track in truth], dtype=bool)
    if boundary:
        edges = tube_overlaps(*([boundary_tube(tube) for tube in side] for side in tubes))
        overlaps = np.where(crowds, overlaps, np.minimum(overlaps, edges))
    outside = _outside([t.area if t.area is not None else _area(t.masks) for t in truth])
    uncounted = outside | crowds
    hits, ignored = _greedy(overlaps, uncounted, crowds)
    # An unmatched prediction of another size is no mistake in a range of sizes.
    of_other_size = _outside([_area(track.masks) for track in predictions])
    ignored |= ~hits & of_other_size[:, None]
    matches.scores.append(np.array([track.score for track in predictions], dtype=float))
    matches.hits.append(hits)
    matches.ignored.append(ignored)
    matches.counted.append((~uncounted).sum(axis=1))


def _greedy(
    overlaps: NDArray[np.float64], uncounted: NDArray[np.bool_], crowds: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Each prediction takes the best track that is left, an uncounted one only if it must.

    overlaps (D, G), uncounted (A, G), crowds (G,): which can be taken again.
    Returns hits and ignored, both (A, R, D).
    """
    number, tracks = overlaps.shape
    shape = (len(AREA_RANGES), len(THRESHOLDS))
    hits, ignored = np.zeros((2, *shape, number), dtype=bool)
    if not tracks:
        return hits, ignored
    taken = np.zeros((*shape, tracks), dtype=bool)
    area, threshold = np.indices(shape)
    for place, overlap in enumerate(overlaps):
        fits = (overlap >= THRESHOLDS[:, None])[None] & (~taken | crowds)
        counted = fits & ~uncounted[:, None]
        fits = np.where(counted.any(axis=2, keepdims=True), counted, fits)
        # Among equals the last one, as officially.
        best = tracks - 1 - np.where(fits, overlap, -1.0)[..., ::-1].argmax(axis=2)
        hit = fits.any(axis=2)
        hits[..., place] = hit
        ignored[..., place] = hit & uncounted[area, best]
        taken[area, threshold, best] |= hit
    return hits, ignored


def _outside(areas: Sequence[float]) -> NDArray[np.bool_]:
    """(A, N): which areas lie outside each range."""
    values = np.array(areas, dtype=float)
    limits = np.array(list(AREA_RANGES.values()))
    return (values < limits[:, :1]) | (values > limits[:, 1:])


def _area(masks: Tube) -> float:
    """Mean over the frames on which the track is seen."""
    areas = tube_areas(masks)
    return float(areas[areas > 0].mean()) if areas.any() else 0.0


def _category_score(category: int, matches: ClassMatches) -> CategoryScore:
    precision = {name: np.full(len(THRESHOLDS), math.nan) for name in _RANGES}
    recall = {(name, limit): math.nan for name in _RANGES for limit in LIMITS}
    counts = np.sum([np.zeros(len(_RANGES), dtype=np.int64), *matches.counted], axis=0)
    for limit in LIMITS:
        hits, ignored = _ranked(matches, limit)
        for place, name in enumerate(_RANGES):
            count = int(counts[place])
            if not count:
                continue
            curves = [
                _curve(hits[place, r], ignored[place, r], count) for r in range(len(THRESHOLDS))
            ]
            recall[name, limit] = float(np.mean([highest for _, highest in curves]))
            if limit == LIMITS[-1]:
                precision[name] = np.array([mean for mean, _ in curves])
    return CategoryScore(category, precision, recall, int(counts[0]))


def _ranked(matches: ClassMatches, limit: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Hits and ignored of all videos, at most `limit` of each, by descending score."""
    if not matches.scores:
        hits, ignored = np.zeros((2, len(AREA_RANGES), len(THRESHOLDS), 0), dtype=bool)
        return hits, ignored
    scores = np.concatenate([values[:limit] for values in matches.scores])
    order = np.argsort(-scores, kind="stable")
    hits, ignored = (
        np.concatenate([values[..., :limit] for values in part], axis=2)[..., order]
        for part in (matches.hits, matches.ignored)
    )
    return hits, ignored


def _curve(hits: NDArray[np.bool_], ignored: NDArray[np.bool_], count: int) -> tuple[float, float]:
    """Mean precision over the recall levels, and the highest recall; predictions by rank (D,)."""
    right = np.cumsum(hits & ~ignored)
    wrong = np.cumsum(~hits & ~ignored)
    if not len(right):
        return 0.0, 0.0
    recall = right / count
    precision = right / np.maximum(1, right + wrong)
    # The precision at a recall is the best one at that recall or a higher one.
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALL_LEVELS, side="left")
    reached = places < len(envelope)
    return float(envelope[places[reached]].sum() / len(RECALL_LEVELS)), float(recall[-1])


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan
