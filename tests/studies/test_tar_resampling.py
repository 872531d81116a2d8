"""Resampled scores are those of the metric on videos that really come several times."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from studies.tar.resampling import Resampler
from tempomask.errors import InputError
from tempomask.metrics.video_ap import PredictedTrack, TrueTrack, VideoAP
from tempomask.rle import encode_rle

Video = tuple[list[TrueTrack], list[PredictedTrack]]
CLASSES = (1, 2, 3)


def video(rng: np.random.Generator, true: int, found: int) -> Video:
    """Tracks over two frames; found ones are blurred copies of true ones, or anything."""

    def tube(mask: np.ndarray) -> list:
        return [encode_rle(mask), encode_rle(mask)]

    masks = [rng.random((6, 6)) < 0.5 for _ in range(max(1, true))]
    truth = [TrueTrack(int(rng.choice(CLASSES)), tube(m)) for m in masks[:true]]
    predictions = []
    for number in range(found):
        mask = masks[number % len(masks)] ^ (rng.random((6, 6)) < 0.1)
        label = truth[number % true].category_id if true else 1
        predictions.append(PredictedTrack(label, tube(mask), float(rng.random())))
    return truth, predictions


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.tuples(st.integers(0, 3), st.integers(0, 14)), min_size=1, max_size=4),
    data=st.data(),
)
def test_copies_count_like_videos(
    seed: int, sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    rng = np.random.default_rng(seed)
    videos = [video(rng, true, found) for true, found in sizes]
    copies = data.draw(st.lists(st.integers(0, 3), min_size=len(videos), max_size=len(videos)))
    once, repeated = VideoAP(CLASSES), VideoAP(CLASSES)
    for (truth, predictions), count in zip(videos, copies, strict=True):
        once.update(truth, predictions)
        for _ in range(count):
            repeated.update(truth, predictions)
    scores, wanted = Resampler(once).score(np.array(copies)), repeated.compute()
    for own, other in zip(
        scores,
        (wanted.ap, wanted.average_precision(threshold=0.75), wanted.average_recall(10)),
        strict=True,
    ):
        assert own == pytest.approx(other, abs=1e-9, nan_ok=True)


def test_nothing_to_find_is_not_a_number() -> None:
    metric = VideoAP(CLASSES)
    metric.update([], [])
    assert all(math.isnan(score) for score in Resampler(metric).score(np.ones(1, dtype=int)))


def test_a_metric_without_videos_is_refused() -> None:
    with pytest.raises(InputError, match="no videos"):
        Resampler(VideoAP(CLASSES))
