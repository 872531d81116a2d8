"""Box scores against cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tempomask.errors import InputError
from tempomask.metrics.boxes import PROTOCOLS, BoxMetric, BoxProtocol, box_iou, score_boxes

TRUTH = [[0.0, 0.0, 10.0, 10.0]] * 4
OTB = PROTOCOLS["otb"]


def test_four_frames_by_hand() -> None:
    """Overlaps 1, 1/3, 0 and 1/4; centres 0, 5, 30 and 0 pixels away, 0, 0.5, 3 and 0 boxes."""
    predicted = [[0, 0, 10, 10], [5, 0, 10, 10], [30, 0, 10, 10], [-5, -5, 20, 20]]
    score = score_boxes(OTB, predicted, TRUTH)
    assert score.overlaps == pytest.approx([1, 1 / 3, 0, 1 / 4])
    # Above 0 to 0.2: 3 of 4; above 0.25 and 0.3: 2; above 0.35 to 0.95: 1; above 1: none.
    expected = [3 / 4] * 5 + [2 / 4] * 2 + [1 / 4] * 13 + [0]
    assert score.success_curve == pytest.approx(expected)
    assert score.result.success == pytest.approx((5 * 0.75 + 2 * 0.5 + 13 * 0.25) / 21)
    assert score.result.precision == 3 / 4
    assert score.precision_curve[[0, 4, 5, 29, 30]] == pytest.approx([0.5, 0.5, 0.75, 0.75, 1.0])
    assert score.result.normalised_precision == 2 / 4
    assert score.normalised_precision_curve[50] == 3 / 4
    assert score.result.average_overlap == pytest.approx((1 + 1 / 3 + 1 / 4) / 4)
    assert (score.success_rate(0.5), score.success_rate(0.25)) == (1 / 4, 2 / 4)


def test_a_perfect_tracker_has_an_auc_of_20_in_21() -> None:
    score = score_boxes(OTB, TRUTH, TRUTH)
    assert score.result.success == pytest.approx(20 / 21)
    assert (
        score.result.precision,
        score.result.normalised_precision,
        score.result.average_overlap,
    ) == (1, 1, 1)


def test_normalised_precision_goes_by_width_and_height() -> None:
    """Ten pixels right in a box 40 wide, ten down in a box 100 high: 0.25 and 0.1."""
    truth = [[0, 0, 40, 100]] * 3
    score = score_boxes(OTB, [truth[0], [10, 0, 40, 100], [0, 10, 40, 100]], truth)
    assert score.normalised_errors == pytest.approx([0, 0.25, 0.1])
    assert score.result.normalised_precision == pytest.approx(2 / 3)


def test_lost_and_absent_frames() -> None:
    """Frame 1: lost, so that the box of frame 0 stands; frame 2: absent; frame 3: found again."""
    truth = [[0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 10, 10]]
    predicted = [[9, 9, 1, 1], [0, 0, 0, 0], [0, 0, 10, 10], [0, 0, 10, 10]]
    visible = [True, True, False, True]
    lasot = score_boxes(PROTOCOLS["lasot"], predicted, truth, visible)
    # Held before the first frame is set right, as the toolkits do it: 1 x 1 in 10 x 10.
    assert lasot.overlaps == pytest.approx([1, 0.01, -1, 1])
    assert lasot.success_curve[0] == 3 / 4 and lasot.success_curve[1] == 2 / 4
    assert lasot.result.average_overlap == pytest.approx(2.01 / 3)
    assert lasot.result.precision == 3 / 4 and lasot.precision_curve[-1] == 3 / 4
    got10k = score_boxes(PROTOCOLS["got10k"], predicted, truth, visible, size=(20, 20))
    assert got10k.overlaps == pytest.approx([0, 1])
    assert (got10k.result.average_overlap, got10k.success_rate(0.5)) == (0.5, 0.5)


def test_clipping_at_the_edge_of_the_image() -> None:
    truth = [[0, 0, 10, 10], [0, 0, 10, 10]]
    predicted = [[0, 0, 10, 10], [-10, 0, 20, 10]]
    clipping = BoxProtocol(clip=True)
    assert score_boxes(clipping, predicted, truth, size=(10, 10)).overlaps[1] == 1
    assert score_boxes(OTB, predicted, truth, size=(10, 10)).overlaps[1] == pytest.approx(0.5)


def test_a_true_box_without_area_is_absent() -> None:
    truth = [[0, 0, 10, 10], [0, 0, 0, 0]]
    score = score_boxes(OTB, truth, truth)
    assert score.overlaps.tolist() == [1, -1] and score.result.normalised_precision == 0.5


def test_means_over_sequences_and_over_frames() -> None:
    short = ([[0, 0, 10, 10]] * 2, [[0, 0, 10, 10]] * 2)
    miss = [[50.0, 50.0, 10.0, 10.0]] * 5
    long = ([[0, 0, 10, 10], *miss], [[0, 0, 10, 10]] * 6)
    by_sequence, pooled = BoxMetric(OTB), BoxMetric(replace(OTB, pooled=True))
    for metric in (by_sequence, pooled):
        metric.update(*short)
        metric.update(*long)
    assert by_sequence.compute().average_overlap == pytest.approx((1 + 1 / 6) / 2)
    assert pooled.compute().average_overlap == pytest.approx(3 / 8)
    by_sequence.reset()
    with pytest.raises(InputError, match="no frame was scored"):
        by_sequence.compute()


def test_a_sequence_that_is_never_seen_has_scores_and_no_warning() -> None:
    score = score_boxes(PROTOCOLS["lasot"], TRUTH, TRUTH, [False] * 4)
    assert (score.result.success, score.result.precision, score.result.average_overlap) == (0, 0, 0)
    metric = BoxMetric(PROTOCOLS["got10k"])
    assert len(metric.update(TRUTH, TRUTH, [False] * 4)) == 0


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (TRUTH[:3], "3 predicted boxes for 4 frames"),
        ([[0, 0, 1]] * 4, r"must be \(T, 4\)"),
        ([[0, 0, 1, float("nan")]] * 4, "box of frame 0 is not finite"),
        ([TRUTH[0], [0, 0, -1, 1], *TRUTH[:2]], "box of frame 1 has a negative side"),
    ],
)
def test_bad_boxes(predicted: list[list[float]], message: str) -> None:
    with pytest.raises(InputError, match=message):
        score_boxes(OTB, predicted, TRUTH)


box = st.tuples(*[st.floats(0, 40)] * 2, *[st.floats(0, 30)] * 2)


@given(st.lists(st.tuples(box, box), min_size=1, max_size=8))
def test_scores_lie_between_0_and_1_and_curves_are_monotonic(rows: list) -> None:  # type: ignore[type-arg]
    predicted, truth = zip(*rows, strict=True)
    score = score_boxes(OTB, predicted, truth)
    assert (np.diff(score.success_curve) <= 0).all()
    assert (np.diff(score.precision_curve) >= 0).all()
    for value in (score.result.success, score.result.precision, score.result.normalised_precision):
        assert 0 <= value <= 1
    assert 0 <= score.result.average_overlap <= 1 + 1e-9


def test_a_box_thinner_than_its_corners_are_exact_overlaps_itself_wholly() -> None:
    box = np.array([[0.0, 1.0, 1.0, 1e-10]])
    assert box_iou(box, box).tolist() == [1.0]
