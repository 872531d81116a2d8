"""The adaptive budget: hard frames get more, and the mean stays where it was asked to be."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tempomask.routing.adaptive import AdaptiveBudget, AdaptiveConfig
from tempomask.routing.budget import TopK

BLOCKS = 14
CONFIG = AdaptiveConfig(target=0.6, least=0.143)


def follow(
    control: AdaptiveBudget, frames: list[tuple[float, float, float]]
) -> tuple[list[float], list[float]]:
    """Budgets and shares used over frames of (uncertainty, predicted IoU, object score)."""
    budgets, shares = [], []
    for uncertainty, iou, score in frames:
        control.begin_frame()
        budgets.append(control.budget(uncertainty))
        kept = TopK().keep(torch.rand(BLOCKS), [0, BLOCKS - 1], budgets[-1])
        shares.append(sum(kept) / BLOCKS)
        control.spent(shares[-1])
        control.end_frame([iou], [score])
    return budgets, shares


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


frame = st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(-20, 20))


@given(st.lists(frame, min_size=1, max_size=300), st.floats(0.3, 0.9))
def test_the_mean_is_held_whatever_comes(
    frames: list[tuple[float, float, float]], target: float
) -> None:
    control = AdaptiveBudget(AdaptiveConfig(target, 0.143))
    budgets, shares = follow(control, frames)
    assert all(0.143 <= budget <= 1 for budget in budgets)
    # By construction: the reserve over the number of frames, and a block's rounding.
    assert abs(mean(shares) - target) <= (1.5 + 1 / BLOCKS) / len(shares) + 1e-6


def test_over_a_long_video_the_mean_is_the_target() -> None:
    generator = torch.Generator().manual_seed(0)
    frames = [(u, 0.9 + 0.1 * i, 5.0) for u, i in torch.rand(1000, 2, generator=generator).tolist()]
    _, shares = follow(AdaptiveBudget(CONFIG), frames)
    assert mean(shares) == pytest.approx(0.6, abs=0.002)


@pytest.mark.parametrize(
    "hard",
    [(0.9, 0.9, 6.0), (0.5, 0.3, 6.0), (0.5, 0.9, 0.1)],
    ids=["router unsure", "low IoU", "nearly absent"],
)
def test_hard_frames_get_more(hard: tuple[float, float, float]) -> None:
    control = AdaptiveBudget(CONFIG)
    wobble = [(0.5 + 0.01 * (-1) ** t, 0.9 + 0.005 * (-1) ** t, 6.0) for t in range(40)]
    usual, _ = follow(control, wobble)
    # The tracker's doubt about a frame counts for the next one.
    spent, _ = follow(control, [hard, hard])
    assert spent[1] > max(usual[5:]) + 0.08
    # What was spent is saved on the frames after it.
    back, _ = follow(control, wobble)
    assert mean(back[2:12]) < 0.6 < spent[1]


def test_the_worst_object_decides_and_odd_values_are_left_out() -> None:
    easy, hard = AdaptiveBudget(CONFIG), AdaptiveBudget(CONFIG)
    for control in (easy, hard):
        follow(control, [(0.5 + 0.01 * (-1) ** t, 0.9, 6.0) for t in range(20)])
    easy.end_frame([0.9, math.nan], [6.0, 6.0])
    hard.end_frame([0.9, 0.2], [6.0, 6.0])
    assert hard.budget(0.5) > easy.budget(0.5)


def test_a_fresh_one_has_forgotten() -> None:
    control = AdaptiveBudget(CONFIG)
    first, _ = follow(control, [(0.1 * t % 1, 0.5, 1.0) for t in range(30)])
    again, _ = follow(control.fresh(), [(0.1 * t % 1, 0.5, 1.0) for t in range(30)])
    assert again == pytest.approx(first)
