"""Clicks, boxes and masks made from true masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.errors import InputError
from tempomask.evaluation.prompts import (
    add_error_clicks,
    check_kind,
    error_click,
    first_frame_prompts,
)
from tempomask.results import FrameArrays, FrameResult


def rectangle(y0: int, x0: int, y1: int, x1: int) -> np.ndarray:
    mask = np.zeros((40, 60), bool)
    mask[y0:y1, x0:x1] = True
    return mask


EMPTY = np.zeros((40, 60), bool)


@pytest.mark.parametrize(
    ("truth", "prediction", "expected"),
    [
        (rectangle(10, 20, 15, 25), EMPTY, ((22, 12), 1)),
        (EMPTY, rectangle(10, 20, 15, 25), ((22, 12), 0)),
        # The deeper of two missed parts, not the one with more pixels.
        (rectangle(1, 1, 4, 59) | rectangle(20, 20, 27, 27), EMPTY, ((23, 23), 1)),
        # Missed on the left by 9 columns, false on the right by 3.
        (rectangle(5, 10, 30, 30), rectangle(5, 19, 30, 33), ((14, 9), 1)),
        (rectangle(5, 19, 30, 30), rectangle(5, 10, 30, 33), ((14, 9), 0)),
        # The border counts as outside: the middle of a filled image, not a corner.
        (~EMPTY, EMPTY, ((19, 19), 1)),
        # Equal depths: the false region, as in SAM 2.
        (rectangle(0, 0, 5, 5), rectangle(20, 20, 25, 25), ((22, 22), 0)),
        (rectangle(3, 3, 9, 9), rectangle(3, 3, 9, 9), None),
        (EMPTY, EMPTY, None),
    ],
)
def test_error_click(truth: np.ndarray, prediction: np.ndarray, expected: object) -> None:
    assert error_click(truth, prediction) == expected


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), density=st.floats(0.05, 0.95))
def test_error_click_by_brute_force(seed: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    truth, prediction = (rng.random((9, 11)) < density for _ in range(2))

    def depths(region: np.ndarray) -> dict[tuple[int, int], float]:
        outside = np.argwhere(~np.pad(region, 1)) - 1
        return {
            (int(x), int(y)): float(((outside - (y, x)) ** 2).sum(axis=1).min())
            for y, x in np.argwhere(region)
        }

    missed, false = depths(truth & ~prediction), depths(prediction & ~truth)
    click = error_click(truth, prediction)
    if click is None:
        assert not missed and not false
        return
    region = missed if click[1] else false
    assert region[click[0]] == max([*missed.values(), *false.values()])


@pytest.mark.parametrize("kind", ["mask", "box", "click", "3clicks", "5clicks"])
def test_first_frame_prompts(kind: str) -> None:
    labels = 3 * rectangle(10, 20, 15, 25) + 7 * rectangle(30, 30, 31, 31)
    prompts = first_frame_prompts(labels, (3, 7), kind, 4)  # type: ignore[arg-type]
    assert [(p.frame, p.object_id) for p in prompts] == [(4, 3), (4, 7)]
    for prompt in prompts:
        prompt.check_inside(labels.shape)
    if kind == "mask":
        assert np.array_equal(prompts[0].mask, labels == 3)
    elif kind == "box":
        assert np.asarray(prompts[1].box).tolist() == [30, 30, 31, 31]
    else:
        assert np.asarray(prompts[0].points).tolist() == [[22, 12]]
        assert np.asarray(prompts[0].labels).tolist() == [1]


def test_unknown_kind() -> None:
    with pytest.raises(InputError, match="'2clicks'"):
        check_kind("2clicks")


class LearningSession:
    """Shows less and less of the object wrongly, and records the clicks."""

    def __init__(self, predictions: list[np.ndarray]) -> None:
        self.predictions = predictions
        self.clicks: list[tuple[int, list[float], int]] = []

    def result(self) -> FrameResult:
        logits = np.where(np.stack([self.predictions[0], EMPTY]), 1, -1).astype(np.float32)
        ones = np.ones(2, np.float32)
        return FrameResult(
            0, EMPTY.shape, (1, 2), FrameArrays(logits, ones, ones), np.ones(1, bool)
        )

    def correct(self, object_id: int, points: list, labels: list) -> FrameResult:
        self.clicks.append((object_id, list(points[0]), labels[0]))
        if object_id == 1:
            self.predictions.pop(0)
        return self.result()


def test_further_clicks_go_to_the_error_that_is_left() -> None:
    """Object 1 is right after two clicks; object 2 stays empty and gets all of them."""
    truth = rectangle(5, 10, 30, 30)
    steps = [rectangle(5, 19, 30, 30), rectangle(5, 10, 30, 35), truth]
    truths = {1: truth.astype(bool), 2: rectangle(33, 40, 36, 43).astype(bool)}
    session = LearningSession(steps)
    add_error_clicks(session, session.result(), truths, 4)  # type: ignore[arg-type]
    first = [click for click in session.clicks if click[0] == 1]
    assert first == [(1, [14, 9], 1), (1, [32, 7], 0)]
    assert session.clicks[2:] == [(2, [41, 34], 1)] * 4
