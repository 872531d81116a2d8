"""AP, AP75 and AR10 of resampled videos: how far the scores depend on which videos there are.

D predictions of one class in all videos, R thresholds, V videos.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.metrics.video_ap import RECALL_LEVELS, THRESHOLDS, ClassMatches, VideoAP

AT_75 = int(np.abs(THRESHOLDS - 0.75).argmin())
RECALL_LIMIT = 10


class ResampledScores(NamedTuple):
    """In [0, 1], same as in `VideoAPResult`; NaN if no track is to be found in the videos."""

    ap: float
    ap75: float
    ar10: float


class _RankedClass(NamedTuple):
    """Of one class, by descending score: video (D,), hits and wrong (R, D).

    among_first (D,): one of a video's first ten. counted (V,): tracks to be found in each video.
    """

    video: NDArray[np.int64]
    hits: NDArray[np.bool_]
    wrong: NDArray[np.bool_]
    among_first: NDArray[np.bool_]
    counted: NDArray[np.int64]


class Resampler:
    """Scores the videos of a metric anew, each counted as often as asked for.

    The predictions are matched and ranked once, so that a score takes about a millisecond.
    """

    def __init__(self, metric: VideoAP) -> None:
        """InputError for a metric without videos."""
        if not metric.videos:
            raise InputError("there are no videos to resample")
        self.videos = metric.videos
        self._classes = [
            _ranked(matches, metric.videos)
            for matches in metric._matches.values()
            if matches.videos
        ]

    def score(self, copies: NDArray[np.int64]) -> ResampledScores:
        """copies (V,): how often each video counts, in the order of the metric's updates."""
        found = [self._of_class(ranked, copies) for ranked in self._classes]
        scores = np.array([score for score in found if score is not None])
        if not len(scores):
            return ResampledScores(np.nan, np.nan, np.nan)
        return ResampledScores(*scores.mean(axis=0).tolist())

    def _of_class(
        self, ranked: _RankedClass, copies: NDArray[np.int64]
    ) -> tuple[float, float, float] | None:
        """AP, AP75 and AR10 of one class; None where no track of it is left."""
        count = int(ranked.counted @ copies)
        if not count:
            return None
        weights = copies[ranked.video]
        right = (ranked.hits * weights).cumsum(axis=1)
        wrong = (ranked.wrong * weights).cumsum(axis=1)
        precision = right / np.maximum(1, right + wrong)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        values = np.zeros(len(THRESHOLDS))
        for threshold, curve in enumerate(envelope):
            places = np.searchsorted(right[threshold] / count, RECALL_LEVELS, side="left")
            values[threshold] = curve[places[places < len(curve)]].sum() / len(RECALL_LEVELS)
        recall = (ranked.hits[:, ranked.among_first] * weights[ranked.among_first]).sum(axis=1)
        return float(values.mean()), float(values[AT_75]), float(recall.mean() / count)


def _ranked(matches: ClassMatches, videos: int) -> _RankedClass:
    scores = matches.scores
    video = np.repeat(matches.videos, [len(values) for values in scores])
    place = np.concatenate([np.arange(len(values)) for values in scores])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    # The first of the area ranges holds all areas.
    hits = np.concatenate([part[0] for part in matches.hits], axis=1)[:, order]
    ignored = np.concatenate([part[0] for part in matches.ignored], axis=1)[:, order]
    counted = np.zeros(videos, dtype=np.int64)
    counted[matches.videos] = [part[0] for part in matches.counted]
    return _RankedClass(
        video[order], hits & ~ignored, ~hits & ~ignored, place[order] < RECALL_LIMIT, counted
    )
