"""J&F against vos-benchmark, and the DAVIS rules by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from vos_benchmark.evaluator import Evaluator

from tempomask.errors import InputError
from tempomask.metrics.region_boundary import (
    SCORES,
    RegionBoundary,
    RegionBoundaryResult,
    region_and_boundary,
    statistics,
)


def blobs(rng: np.random.Generator, height: int, width: int, objects: int) -> np.ndarray:
    """A random label map whose blobs may touch every side of the image."""
    smooth = rng.uniform(1, 6)
    stacked = np.stack(
        [gaussian_filter(rng.normal(size=(height, width)), smooth) for _ in range(objects)]
    )
    labels = stacked.argmax(axis=0) + 1
    labels[stacked.max(axis=0) < stacked.std() * rng.uniform(-3, 2)] = 0
    return labels.astype(np.uint8)


def score(result: RegionBoundaryResult) -> dict[int, tuple[float, float]]:
    return {s.object_id: (100 * s.region.mean, 100 * s.boundary.mean) for s in result.objects}


def of_vos_benchmark(evaluator: Evaluator) -> dict[int, tuple[float, float]]:
    region, boundary = evaluator.conclude()
    return {object_id: (region[object_id], boundary[object_id]) for object_id in region}


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(2, 90),
    width=st.integers(2, 150),
    objects=st.integers(1, 5),
)
def test_equals_vos_benchmark(seed: int, height: int, width: int, objects: int) -> None:
    """Objects come and go, touch each other and all sides, or are missing on either side."""
    rng = np.random.default_rng(seed)
    ours, theirs = RegionBoundary(), Evaluator()
    for _ in range(4):
        truth, prediction = (blobs(rng, height, width, objects) for _ in range(2))
        if rng.random() < 0.4:
            prediction = np.roll(truth, tuple(rng.integers(-2, 3, size=2)), (0, 1))
        for labels in (truth, prediction):
            labels[labels == rng.integers(objects + 1)] = 0
            labels[labels == rng.integers(objects + 3)] = rng.integers(objects + 3)
        ours.update(prediction.astype(rng.choice(["u1", "i4", "i8"])), truth)
        theirs.feed_frame(prediction, truth)
    expected = of_vos_benchmark(theirs)
    actual = score(ours.compute())
    assert actual.keys() == expected.keys()
    for object_id in expected:
        assert actual[object_id] == pytest.approx(expected[object_id], abs=1e-6)


def test_equals_vos_benchmark_at_the_size_of_davis() -> None:
    rng = np.random.default_rng(3)
    truth = blobs(rng, 480, 854, 3)
    prediction = np.roll(truth, (5, -4), (0, 1))
    ours, theirs = RegionBoundary(), Evaluator()
    ours.update(prediction, truth)
    theirs.feed_frame(prediction, truth)
    assert len(of_vos_benchmark(theirs)) == 3
    for object_id, expected in of_vos_benchmark(theirs).items():
        assert score(ours.compute())[object_id] == pytest.approx(expected, abs=1e-6)


def test_many_objects_with_large_ids() -> None:
    """More objects than are scored at once, and ids that do not fit 8 bits."""
    truth = np.kron(np.arange(40).reshape(5, 8), np.ones((12, 12))).astype(np.int32) * 1000
    prediction = np.roll(truth, 3, 1)
    ours, theirs = RegionBoundary(), Evaluator()
    ours.update(prediction, truth)
    theirs.feed_frame(prediction, truth)
    expected = of_vos_benchmark(theirs)
    assert len(expected) == 39
    for object_id, pair in score(ours.compute()).items():
        assert pair == pytest.approx(expected[object_id], abs=1e-6)


@pytest.mark.parametrize(
    ("predicted", "true", "expected"),
    [
        ("empty", "empty", (1.0, 1.0)),
        ("square", "empty", (0.0, 0.0)),
        ("empty", "square", (0.0, 0.0)),
        ("square", "square", (1.0, 1.0)),
        ("full", "full", (1.0, 1.0)),
        ("full", "square", (0.25, 0.0)),
    ],
)
def test_rules_for_empty_and_full(predicted: str, true: str, expected: tuple[float, float]) -> None:
    masks = {"empty": np.zeros((20, 20), bool), "full": np.ones((20, 20), bool)}
    masks["square"] = masks["empty"].copy()
    masks["square"][5:15, 5:15] = True
    region, boundary = region_and_boundary(masks[predicted], masks[true])
    assert (region.item(), boundary.item()) == expected


def test_frames_and_objects_at_once_equal_one_by_one() -> None:
    rng = np.random.default_rng(5)
    truth = np.stack([blobs(rng, 40, 70, 3) for _ in range(6)])
    prediction = np.stack([blobs(rng, 40, 70, 3) for _ in range(6)])
    ids = np.arange(1, 4)[:, None, None]
    one_by_one, clips = RegionBoundary([1, 2, 3]), RegionBoundary([1, 2, 3])
    for p, t in zip(prediction, truth, strict=True):
        one_by_one.update(p, t)
    clips.update(prediction, truth)
    assert one_by_one.compute() == clips.compute()
    region, boundary = region_and_boundary(prediction[:, None] == ids, truth[:, None] == ids)
    assert region.shape == boundary.shape == (6, 3)
    assert region.mean() == pytest.approx(clips.compute().scores()["J"])
    assert boundary.mean() == pytest.approx(clips.compute().scores()["F"])


def test_fixed_objects_count_on_every_frame() -> None:
    """DAVIS: the objects of the first annotation, whether they are seen again or not."""
    empty, square = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    square[5:12, 5:12] = 1
    fixed, found = RegionBoundary([1, 2]), RegionBoundary()
    for metric in (fixed, found):
        metric.update(empty, empty)
        metric.update(empty, square)
        metric.update(7 * square, square)
    assert [s.mean for s in fixed.compute().objects] == [pytest.approx(1 / 3), 1.0]
    assert [s.frames for s in fixed.compute().objects] == [3, 3]
    assert score(found.compute()) == {1: (0.0, 0.0)}
    assert [s.frames for s in found.compute().objects] == [2]
    assert fixed.compute().ignored_ids == found.compute().ignored_ids == (7,)


def test_statistics_by_hand() -> None:
    result = statistics([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    # Limits 0, 2, 4, 5, 7 as the DAVIS code rounds them: first part 0..2, last part 5..7.
    assert result.mean == pytest.approx(0.55)
    assert result.recall == 0.5
    assert result.decay == pytest.approx(0.8 - 0.3)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5])
def test_statistics_of_short_sequences(length: int) -> None:
    result = statistics([1.0] + [0.0] * (length - 1))
    assert result.mean == pytest.approx(1 / length)
    assert math.isfinite(result.decay)


def test_decay_does_not_wrap_above_255_frames() -> None:
    falling = list(np.linspace(1, 0, 1000))
    assert statistics(falling).decay == pytest.approx(0.75, abs=0.01)


def test_averages_over_objects() -> None:
    metric = RegionBoundary([1, 2])
    truth = np.zeros((2, 30, 30), np.uint8)
    truth[:, 5:15, 5:15], truth[:, 20:28, 20:28] = 1, 2
    prediction = truth.copy()
    prediction[1][truth[1] == 1] = 0
    metric.update(prediction, truth)
    result = metric.compute()
    averages = [0.75, 0.75, 0.75, 0.75, 0.75, 0.5, 0.5]
    assert list(result.scores().values()) == averages and list(result.scores()) == list(SCORES)


def test_reset_forgets_all() -> None:
    metric = RegionBoundary()
    square = np.zeros((20, 20), np.uint8)
    square[5:12, 5:12] = 3
    metric.update(square, square)
    assert metric.compute().mean == 1.0
    metric.reset()
    assert metric.compute().objects == ()
    assert math.isnan(metric.compute().mean)


@pytest.mark.parametrize(
    ("prediction", "truth", "message"),
    [
        (np.zeros((2, 3), int), np.zeros((3, 2), int), r"\(2, 3\).*\(3, 2\)"),
        (np.zeros((1, 1, 2, 3), int), np.zeros((1, 1, 2, 3), int), r"\(T, H, W\)"),
    ],
)
def test_what_does_not_fit(prediction: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        RegionBoundary([1, 2]).update(prediction, truth)
