"""Intervals of AP over videos: a real difference is told from none."""

from __future__ import annotations

import numpy as np
import pytest

from studies.tar.intervals import ap_intervals
from tempomask.errors import InputError
from tempomask.metrics.video_ap import PredictedTrack, TrueTrack, VideoAP
from tempomask.rle import encode_rle


def metric(found: list[bool]) -> VideoAP:
    """One track a video, which is found or missed."""
    mask = np.zeros((8, 8), dtype=bool)
    mask[2:6, 2:6] = True
    right, wrong = [encode_rle(mask)], [encode_rle(~mask)]
    result = VideoAP([1])
    for number, hit in enumerate(found):
        prediction = PredictedTrack(1, right if hit else wrong, 1 - 0.01 * number)
        result.update([TrueTrack(1, right)], [prediction])
    return result


def test_a_model_that_finds_more_is_better_beyond_noise() -> None:
    base, better = [True, False] * 10, [True] * 18 + [False] * 2
    found = ap_intervals({"base": metric(base), "better": metric(better)}, "base", rounds=300)
    for score in ("ap", "ap75", "ar10"):
        own, difference = found["better"][score]
        reference = found["base"][score][0]
        assert own.mean - reference.mean == pytest.approx(difference.mean)
        assert 0 < difference.low < difference.mean < difference.high
        assert difference.positive > 0.95
        assert own.low <= own.mean <= own.high and own.sequences == 20
    assert found["base"]["ar10"][0].mean == pytest.approx(50)


def test_a_model_equals_itself() -> None:
    same = metric([True, False, True])
    _, difference = ap_intervals({"base": same, "copy": same}, "base", rounds=50)["copy"]["ap"]
    assert (difference.mean, difference.low, difference.high) == (0, 0, 0)


@pytest.mark.parametrize(
    ("metrics", "reference", "words"),
    [
        ({"a": [True]}, "b", "no model 'b'"),
        ({"a": [True], "b": [True, True]}, "a", "different numbers of videos"),
        ({"a": []}, "a", "no videos"),
    ],
)
def test_what_cannot_be_compared(
    metrics: dict[str, list[bool]], reference: str, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        ap_intervals({name: metric(found) for name, found in metrics.items()}, reference)
