"""Bootstrap over videos of average precision: whether two models differ by more than noise.

The models are scored on the same resamples, so that a difference is paired.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from studies.bootstrap import Estimate, interval
from studies.tar.resampling import ResampledScores, Resampler
from tempomask.errors import InputError
from tempomask.metrics.video_ap import VideoAP

ROUNDS = 2000
SCORES = ResampledScores._fields
# Of a model and of a score of it: its interval, and that of its difference to the reference.
Intervals = dict[str, tuple[Estimate, Estimate]]


def ap_intervals(
    metrics: Mapping[str, VideoAP], reference: str, seed: int = 0, rounds: int = ROUNDS
) -> dict[str, Intervals]:
    """Scores in percent by model and by "ap", "ap75", "ar10", each with its difference.

    metrics: of models that ran on the same videos in the same order. reference: one of them. The
    means are the scores of the videos as they are; resamples without any track are left out.

    Raises InputError for a metric without videos, for different numbers of videos, and for a
    reference that is not there.
    """
    if reference not in metrics:
        raise InputError(f"no model {reference!r} to compare with; there are {', '.join(metrics)}")
    resamplers = {name: Resampler(metric) for name, metric in metrics.items()}
    counts = {name: resampler.videos for name, resampler in resamplers.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"the models ran on different numbers of videos: {counts}")
    videos = counts[reference]
    rng = np.random.default_rng(seed)
    chosen = rng.integers(videos, size=(rounds, videos))
    copies = np.stack([np.bincount(row, minlength=videos) for row in chosen])
    whole = np.ones(videos, dtype=np.int64)
    scores = {
        name: 100 * np.array([resampler.score(row) for row in (whole, *copies)])
        for name, resampler in resamplers.items()
    }
    return {
        name: {
            score: (
                _estimate(values[:, place], videos),
                _estimate(values[:, place] - scores[reference][:, place], videos),
            )
            for place, score in enumerate(SCORES)
        }
        for name, values in scores.items()
    }


def _estimate(values: NDArray[np.float64], videos: int) -> Estimate:
    """Of the videos as they are, values[0], and of the resamples after it."""
    resamples = values[1:][~np.isnan(values[1:])]
    positive = float((resamples > 0).mean()) if len(resamples) else float("nan")
    return Estimate(float(values[0]), *interval(resamples), positive, videos)
