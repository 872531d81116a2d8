"""J&F against vos-benchmark and against naive loops."""

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
    RegionBoundary,
    boundary_accuracy,
    boundary_map,
    region_and_boundary,
    statistics,
)


def blobs(rng: np.random.Generator, height: int, width: int, count: int) -> np.ndarray:
    """A random label map whose blobs may touch every side of the picture."""
    fields = [gaussian_filter(rng.normal(size=(height, width)), 2.5) for _ in range(count)]
    stacked = np.stack(fields)
    labels = stacked.argmax(axis=0) + 1
    labels[stacked.max(axis=0) < stacked.std() * rng.uniform(-1, 2)] = 0
    return labels.astype(np.uint8)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    height=st.integers(3, 60),
    width=st.integers(3, 60),
    count=st.integers(1, 4),
)
def test_equals_vos_benchmark(seed: int, height: int, width: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    ours, theirs = RegionBoundary(), Evaluator()
    for _ in range(4):
        truth, prediction = (blobs(rng, height, width, count) for _ in range(2))
        if rng.random() < 0.3:
            prediction = np.roll(truth, tuple(rng.integers(-2, 3, size=2)), (0, 1))
        if rng.random() < 0.2:
            prediction = np.zeros_like(truth)
        ours.update(prediction, truth)
        theirs.feed_frame(prediction, truth)
    region, boundary = theirs.conclude()
    result = ours.compute()
    assert {score.object_id for score in result.objects} == set(region)
    for score in result.objects:
        assert 100 * score.region.mean == pytest.approx(region[score.object_id], abs=1e-6)
        assert 100 * score.boundary.mean == pytest.approx(boundary[score.object_id], abs=1e-6)


@pytest.mark.parametrize("size", [(480, 854), (33, 70)])
def test_large_radius_equals_vos_benchmark(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    truth = blobs(rng, *size, 2)
    prediction = np.roll(truth, (5, -4), (0, 1))
    ours, theirs = RegionBoundary(), Evaluator()
    ours.update(prediction, truth)
    theirs.feed_frame(prediction, truth)
    expected = np.mean(list(theirs.conclude()[1].values()))
    assert 100 * ours.compute().boundary == pytest.approx(expected, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), radius=st.integers(1, 6))
def test_boundary_match_by_brute_force(seed: int, radius: int) -> None:
    rng = np.random.default_rng(seed)
    first, second = (rng.random((12, 15)) < 0.06 for _ in range(2))
    if not first.any() or not second.any():
        return

    def matched(a: np.ndarray, b: np.ndarray) -> float:
        pairs = [
            any(math.dist(p, q) <= radius for q in np.argwhere(b)) for p in np.argwhere(a)
        ]
        return sum(pairs) / len(pairs)

    precision, recall = matched(first, second), matched(second, first)
    total = precision + recall
    expected = 2 * precision * recall / total if total else 0.0
    assert boundary_accuracy(first, second, radius) == pytest.approx(expected)


def test_empty_masks() -> None:
    empty, full = np.zeros((9, 9), bool), np.ones((9, 9), bool)
    assert region_and_boundary(empty, empty) == (1.0, 1.0)
    assert region_and_boundary(full, empty)[0] == 0.0
    assert not boundary_map(empty).any()


def test_statistics_by_hand() -> None:
    result = statistics([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    # Limits 0, 2, 4, 5, 7 as the DAVIS code rounds them: first part 0..2, last part 5..7.
    assert result.mean == pytest.approx(0.55)
    assert result.recall == 0.5
    assert result.decay == pytest.approx(0.8 - 0.3)


def test_decay_does_not_wrap_above_255_frames() -> None:
    falling = list(np.linspace(1, 0, 1000))
    assert statistics(falling).decay == pytest.approx(0.75, abs=0.01)


def test_reset_and_fixed_objects() -> None:
    truth = np.zeros((20, 20), np.uint8)
    truth[5:12, 5:12] = 1
    metric = RegionBoundary([1, 2])
    metric.update(truth, truth)
    assert [score.object_id for score in metric.compute().objects] == [1, 2]
    assert metric.compute().mean == 1.0
    metric.reset()
    assert metric.compute().objects == ()


def test_sizes_must_agree() -> None:
    with pytest.raises(InputError, match=r"\(2, 3\).*\(3, 2\)"):
        RegionBoundary().update(np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8))
