"""Prompts are validated once; results compute what is asked for, at the video's size."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tempomask.errors import InputError
from tempomask.prompts import Prompt
from tempomask.results import DeferredArrays, FrameArrays, FrameResult

BAD_PROMPTS: list[tuple[dict[str, Any], str]] = [
    ({}, "is empty; give points, a box or a mask"),
    ({"labels": [1]}, "is empty"),
    ({"box": (0, 0, 1, 1), "labels": [1]}, "labels but no points"),
    ({"points": [(1, 2)], "mask": np.ones((2, 2))}, "one or the other"),
    ({"box": (0, 0, 1, 1), "mask": np.ones((2, 2), bool)}, "one or the other"),
    ({"points": [1, 2, 3]}, r"shape \(P, 2\) with P >= 1, got \(3,\)"),
    ({"points": np.zeros((0, 2))}, r"got \(0, 2\)"),
    ({"points": [(1, 2, 3)]}, r"got \(1, 3\)"),
    ({"points": [("a", "b")]}, "points must be numbers"),
    ({"points": [(1, float("nan"))]}, "not finite"),
    ({"points": [(1, 2)], "labels": [1, 0]}, r"1 points but labels of shape \(2,\)"),
    ({"points": [(1, 2)], "labels": [2]}, r"labels \[2.0\]; use 1 on the object and 0 off it"),
    ({"box": (1, 2, 3)}, r"\(x0, y0, x1, y1\), got shape \(3,\)"),
    ({"box": (5, 5, 5, 9)}, "no area"),
    ({"box": (5, 9, 8, 4)}, "no area"),
    ({"mask": np.zeros((4, 4), bool)}, "empty mask"),
    ({"mask": np.ones((4, 4, 3), bool)}, r"\(H, W\), bool or integer, got \(4, 4, 3\) bool"),
    ({"mask": np.full((4, 4), 0.5)}, "mask of float64 from 0.5 to 0.5; .* as in mask > 0.5"),
    ({"mask": np.full((4, 4), "a")}, "got .* <U1"),
    ({"points": [(1, 2)], "frame": -1}, "frame must be 0 or more, got -1"),
    ({"points": [(1, 2)], "frame": 1.5}, "frame must be a whole number, got 1.5"),
    ({"points": [(1, 2)], "object_id": "cat"}, "object_id must be a whole number, got 'cat'"),
    ({"points": [(1, 2)], "object_id": True}, "object_id must be a whole number"),
    ({"points": [(1, 2)], "object_id": 10**5000}, "object_id must be a number of 64 bits, got a"),
    ({"points": [(1, 2)], "frame": 2**63}, "frame must be a number of 64 bits"),
    ({"points": [(10**400, 2)]}, "points must be numbers"),
    ({"box": (0, 0, 10**400, 9)}, "box must be numbers"),
]


@pytest.mark.parametrize("parts, message", BAD_PROMPTS)
def test_bad_prompts_are_refused_in_one_line(parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Prompt(**parts)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "parts, message",
    [
        ({"points": [(79.9, 47.9), (0, 0)]}, None),
        ({"points": [(80, 48), (-1, 49)]}, None),
        ({"points": [(81.5, 10)]}, r"point \(81.5, 10\) outside the 80 x 48 image"),
        ({"points": [(3, 3), (-1.5, 10)]}, r"point \(-1.5, 10\) outside"),
        ({"box": (0, 0, 80, 48)}, None),
        ({"box": (-3, 0, 80.4, 48)}, None),
        ({"box": (80, 0, 90, 48)}, r"box \(80, 0, 90, 48\) outside the 80 x 48 image"),
        ({"box": (-9, 0, 0, 48)}, r"box \(-9, 0, 0, 48\) outside"),
        ({"mask": np.ones((48, 80), bool)}, None),
        ({"mask": np.ones((80, 48), bool)}, "mask of 48 x 80 pixels; .* 80 x 48 image"),
    ],
)
def test_prompts_must_lie_inside_the_image(parts: dict[str, Any], message: str | None) -> None:
    prompt = Prompt(frame=4, object_id=2, **parts)
    if message is None:
        prompt.check_inside((48, 80))
        return
    with pytest.raises(InputError, match="object 2 on frame 4 .*" + message):
        prompt.check_inside((48, 80))


def test_prompt_keeps_its_own_read_only_arrays() -> None:
    mask, points = np.full((3, 4), 7, np.uint8), np.array([[1.0, 2.0]])
    by_mask, by_point = Prompt(mask=mask), Prompt(points=points)
    mask[:], points[:] = 0, 9
    assert np.asarray(by_mask.mask).all() and np.asarray(by_mask.mask).dtype == bool
    assert np.asarray(by_point.points).tolist() == [[1, 2]]
    assert np.asarray(by_point.labels).tolist() == [1]
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(by_mask.mask)[0, 0] = False


@pytest.mark.parametrize(
    "short, full",
    [
        ({"points": (4, 6), "labels": 1}, {"points": [(4, 6)], "labels": [1]}),
        ({"points": [(4, 6), (1, 2)], "labels": 0}, {"points": [(4, 6), (1, 2)], "labels": [0, 0]}),
        ({"box": [(1, 2, 3, 4)]}, {"box": (1, 2, 3, 4)}),
        ({"mask": np.eye(4)[None]}, {"mask": np.eye(4, dtype=bool)}),
    ],
)
def test_short_forms_and_equality_by_value(short: dict[str, Any], full: dict[str, Any]) -> None:
    assert Prompt(**short) == Prompt(**full) and hash(Prompt(**short)) == hash(Prompt(**full))
    assert Prompt(**full) != Prompt(frame=1, **full) and Prompt(**full) != full
    assert Prompt(**full) != Prompt(box=(0, 0, 9, 9))


@pytest.mark.parametrize(
    "parts, count",
    [
        ({"points": [(1, 2), (3, 4)]}, 2),
        ({"box": (0, 0, 1, 1)}, 2),
        ({"box": (0, 0, 1, 1), "points": [(1, 2)]}, 3),
        ({"mask": np.ones((2, 2), bool)}, 0),
    ],
)
def test_a_box_counts_as_two_points(parts: dict[str, Any], count: int) -> None:
    assert Prompt(**parts).num_points == count


def result(low: np.ndarray, size: tuple[int, int], non_overlapping: bool = False) -> FrameResult:
    n = len(low)
    return FrameResult(
        index=3,
        size=size,
        object_ids=tuple(range(10, 10 + n)),
        arrays=FrameArrays(
            low.astype(np.float32),
            np.ones(n, np.float32),
            np.linspace(0.1, 0.9, n, dtype=np.float32),
        ),
        blocks=np.ones(2, bool),
        non_overlapping=non_overlapping,
    )


@settings(deadline=None, max_examples=50)
@given(
    n=st.integers(0, 3), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 9)
)
def test_full_size_results(n: int, height: int, width: int, seed: int) -> None:
    low = np.random.default_rng(seed).normal(size=(n, 8, 8)).astype(np.float32)
    r = result(low, (height, width))
    assert r.logits.shape == (n, height, width) and r.logits.dtype == np.float32
    if n:
        expected = F.interpolate(torch.from_numpy(low)[None], (height, width), mode="bilinear")
        np.testing.assert_allclose(r.logits, expected[0].numpy(), atol=1e-6)
    assert r.masks.dtype == bool and (r.masks == (r.logits > 0)).all()
    for mask, (x0, y0, x1, y1) in zip(r.masks, r.boxes.astype(int), strict=True):
        painted = np.zeros_like(mask)
        painted[y0:y1, x0:x1] = True
        assert not (mask & ~painted).any()
        if mask.any():
            inside = mask[y0:y1, x0:x1]
            assert inside[0].any() and inside[-1].any()
            assert inside[:, 0].any() and inside[:, -1].any()
        else:
            assert (x0, y0, x1, y1) == (0, 0, 0, 0)
    labels = r.label_map()
    assert labels.dtype == np.int32
    assert ((labels > 0) == r.masks.any(axis=0)).all()
    for row, object_id in enumerate(r.object_ids):
        assert (r.logits[row] == r.logits.max(axis=0))[labels == object_id].all()


def test_non_overlapping_results_hold_weaker_objects_at_minus_ten() -> None:
    low = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 1.0), np.full((4, 4), -30.0)])
    low[1, :2] = 3.0
    r = result(low, (4, 4), non_overlapping=True)
    assert (r.masks.sum(axis=0) <= 1).all()
    assert r.logits[:, 0, 0].tolist() == [-10, 3, -30]
    assert r.logits[:, 3, 3].tolist() == [2, -10, -30]
    assert r.lost.tolist() == [False, False, True]


@settings(deadline=None, max_examples=50)
@given(n=st.integers(0, 3), side=st.integers(1, 9), seed=st.integers(0, 99), non_overlapping=...)
def test_objects_without_a_mask_are_lost(
    n: int, side: int, seed: int, non_overlapping: bool
) -> None:
    low = np.random.default_rng(seed).normal(-1, size=(n, 3, 3))
    r = result(low, (side, side), non_overlapping)
    assert r.lost.tolist() == [not mask.any() for mask in r.masks]
    absent = r.delivered._replace(object_scores=r.object_scores * -1)
    assert replace(r, arrays=absent).lost.all()


def test_an_object_whose_mask_others_have_is_lost() -> None:
    low = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 1.0)])
    assert result(low, (8, 8)).lost.tolist() == [False, False]
    assert result(low, (8, 8), non_overlapping=True).lost.tolist() == [False, True]


def test_full_size_arrays_are_made_once_and_only_when_asked_for() -> None:
    r = result(np.ones((1, 4, 4)), (8, 8))
    assert "logits" not in vars(r)
    assert r.masks is r.masks and r.logits is r.logits


def test_a_deferred_result_is_delivered_once_to_all_who_wait() -> None:
    asked, ready = threading.Event(), threading.Event()
    delivered: list[int] = []

    def fetch() -> FrameArrays:
        asked.set()
        assert ready.wait(5)
        delivered.append(1)
        zero, one = np.zeros(1, np.float32), np.ones(1, np.float32)
        return FrameArrays(np.ones((1, 2, 2), np.float32), zero, one)

    found = FrameResult(0, (2, 2), (1,), DeferredArrays(fetch), np.ones(1, bool))
    with ThreadPoolExecutor(3) as pool:
        names = ("low_res_logits", "object_scores", "predicted_iou")
        waiting = [pool.submit(getattr, found, name) for name in names]
        assert asked.wait(5)
        ready.set()
        values = [each.result(timeout=5) for each in waiting]
    assert [float(value.max()) for value in values] == [1.0, 0.0, 1.0] and delivered == [1]
    copied = pickle.loads(pickle.dumps(found))
    assert np.array_equal(copied.low_res_logits, found.low_res_logits)
    assert isinstance(copied.arrays, FrameArrays)


def test_a_result_is_told_in_one_line() -> None:
    low = np.stack([np.full((4, 4), 1.0), np.full((4, 4), -1.0)])
    line = "FrameResult(index=3, size=(4, 6), object_ids=(10, 11), areas=(24, 0))"
    assert repr(result(low, (4, 6))) == line


def test_object_id_zero_has_no_place_in_a_label_map() -> None:
    arrays = FrameArrays(np.ones((1, 2, 2), np.float32), *[np.ones(1, np.float32)] * 2)
    r = FrameResult(0, (2, 2), (0,), arrays, np.ones(1, bool))
    with pytest.raises(InputError, match="object id 0"):
        r.label_map()


def test_supervision_gets_the_visible_objects() -> None:
    pytest.importorskip("supervision")
    low = np.stack([np.full((4, 4), -1.0), np.full((4, 4), 1.0)])
    detections = result(low, (4, 6)).to_supervision()
    assert detections.tracker_id.tolist() == detections.class_id.tolist() == [11]
    assert detections.xyxy.tolist() == [[0, 0, 6, 4]]
    assert detections.mask.shape == (1, 4, 6)
    assert detections.confidence.tolist() == pytest.approx([0.9])


def test_default_annotators_of_supervision_tell_objects_apart() -> None:
    supervision = pytest.importorskip("supervision")
    low = np.full((2, 4, 8), -1.0)
    low[0, :, :4], low[1, :, 4:] = 1.0, 1.0
    detections = result(low, (8, 16)).to_supervision()
    scene = np.zeros((8, 16, 3), np.uint8)
    drawn = supervision.MaskAnnotator(opacity=1).annotate(scene, detections)
    assert (drawn[4, 1] != drawn[4, 14]).any()
