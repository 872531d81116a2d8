"""Budgets: what is refused, what each rule keeps, and what calibration finds."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tempomask.errors import InputError
from tempomask.routing.budget import (
    RecordedRule,
    Rule,
    Stochastic,
    Threshold,
    TopK,
    block_count,
    calibrate_threshold,
    check_budget,
    routing_uncertainty,
    smallest_budget,
)
from tempomask.routing.weights import activation_weights, unclipped_weights


@st.composite
def routed(draw: st.DrawFn) -> tuple[Tensor, list[int], float]:
    """Logits (L,), K, and a budget that K fits into."""
    count = draw(st.integers(3, 50))
    p = torch.tensor(draw(st.lists(st.floats(-9, 9), min_size=count, max_size=count)))
    always_on = sorted(draw(st.sets(st.integers(0, count - 1), max_size=count // 2)))
    least = max(smallest_budget(count, always_on), 0.02)
    return p, always_on, draw(st.floats(least, 1.0))


@given(routed())
def test_top_k_holds_the_budget_exactly(case: tuple[Tensor, list[int], float]) -> None:
    logits, always_on, budget = case
    weights = unclipped_weights(logits, budget, always_on)
    kept = TopK().keep(weights, always_on, budget)
    count = sum(kept)
    assert all(kept[i] for i in always_on)
    assert count == block_count(budget, len(weights), always_on)
    assert abs(count - budget * len(weights)) <= 0.5 + 1e-5
    free = [i for i in range(len(weights)) if i not in always_on]
    best_left = max((weights[i].item() for i in free if not kept[i]), default=0.0)
    worst_kept = min((weights[i].item() for i in free if kept[i]), default=1.0)
    assert worst_kept >= best_left


@given(routed(), st.integers(0, 100))
def test_every_rule_keeps_what_must_run(case: tuple[Tensor, list[int], float], seed: int) -> None:
    logits, always_on, budget = case
    weights = unclipped_weights(logits, budget, always_on)
    for rule in (TopK(), Threshold(), Threshold(1.0), Stochastic(seed)):
        kept = rule.keep(weights, always_on, budget)
        assert len(kept) == len(weights) and all(kept[i] for i in always_on)


def test_ties_go_to_the_earlier_block() -> None:
    kept = TopK().keep(torch.full((6,), 0.5), [5], 0.5)
    assert kept == [True, True, False, False, False, True]


def test_the_papers_threshold_does_not_hold_the_budget() -> None:
    """An indifferent router runs everything or nothing but K."""
    indifferent = torch.zeros(10)
    for budget, ran in ((0.6, 10), (0.5, 2)):
        weights = activation_weights(indifferent, budget, [0, 9])
        assert sum(Threshold().keep(weights, [0, 9], budget)) == ran
        assert sum(TopK().keep(weights, [0, 9], budget)) == round(10 * budget)


def test_stochastic_draws_repeat_with_the_seed_and_follow_w() -> None:
    weights = torch.tensor([0.0, 0.3, 0.9, 1.0])
    rule = Stochastic(5)
    drawn = [rule.keep(weights, [], 0.5) for _ in range(2000)]
    again = rule.fresh()
    assert [again.keep(weights, [], 0.5) for _ in range(2000)] == drawn
    assert Stochastic(6).keep(torch.full((64,), 0.5), [], 0.5) != Stochastic(5).keep(
        torch.full((64,), 0.5), [], 0.5
    )
    rates = torch.tensor(drawn).double().mean(dim=0)
    assert rates.tolist() == pytest.approx([0.0, 0.3, 0.9, 1.0], abs=0.05)


@given(
    st.integers(1, 12),
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
    st.floats(0.25, 1.0),
    st.integers(0, 1000),
)
def test_a_calibrated_threshold_holds_the_budget_on_average(
    frames: int, scale: list[float], budget: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Distinct weights, as a router's are.
    weights = torch.rand(frames, 8, generator=generator, dtype=torch.float64) * 0.5
    weights = weights + 0.5 * torch.tensor(scale, dtype=torch.float64)
    rule = Threshold(calibrate_threshold(weights, [0, 7], budget))
    kept = [rule.keep(row, [0, 7], budget) for row in weights]
    share = sum(map(sum, kept)) / (8 * frames)
    assert share <= budget + 1e-6
    assert share > budget - 1.01 / (8 * frames) - 1e-6


def test_a_budget_is_held_where_more_blocks_are_wanted_than_may_run() -> None:
    """Four are wanted for sure, two may run: with w clipped at 1 no threshold tells them apart."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.full((40, 14), -5.0)
    logits[:, 3:7] = 5.0
    logits += 0.3 * torch.randn(logits.shape, generator=generator)
    recorded = RecordedRule(TopK())
    for row in unclipped_weights(logits, 0.3, [0, 13]):
        recorded.keep(row, [0, 13], 0.3)
    rule = Threshold(calibrate_threshold(torch.stack(recorded.weights), [0, 13], 0.3))
    kept = [rule.keep(row, [0, 13], 0.3) for row in recorded.weights]
    assert sum(map(sum, kept)) / (40 * 14) == pytest.approx(0.3, abs=0.002)


def test_calibration_runs_nothing_else_where_the_budget_is_k_but_for_rounding() -> None:
    weights = torch.rand(10, 6, generator=torch.Generator().manual_seed(0))
    rule = Threshold(calibrate_threshold(weights, [0, 5], 0.3333332))
    assert all(sum(rule.keep(row, [0, 5], 0.3333332)) == 2 for row in weights)


def test_calibration_runs_everything_where_the_budget_allows() -> None:
    assert calibrate_threshold(torch.rand(3, 5), [0], 1.0) == 0.0


@pytest.mark.parametrize("budget", [0.0, -0.1, 1.0001, 2.0, math.nan, math.inf])
def test_budgets_outside_the_range_are_refused(budget: float) -> None:
    with pytest.raises(InputError, match="must be more than 0 and at most 1"):
        check_budget(budget, 14, [0, 13])


def test_budgets_below_what_must_run_name_the_smallest() -> None:
    always_on = [0, 2, 8, 44, 47]
    with pytest.raises(InputError, match=r"5 of the 48 .* 0\.105"):
        check_budget(0.1, 48, always_on)
    assert check_budget(0.105, 48, always_on) == 0.105


@given(st.integers(1, 60), st.data())
def test_the_smallest_budget_is_accepted(count: int, data: st.DataObject) -> None:
    always_on = range(data.draw(st.integers(1, count)))
    least = smallest_budget(count, always_on)
    assert check_budget(min(least, 1.0), count, always_on)
    assert block_count(least, count) >= len(always_on)
    below = least - 0.002
    if below > 0 and below * count < len(always_on) - 1e-3:
        with pytest.raises(InputError):
            check_budget(below, count, always_on)


@pytest.mark.parametrize(
    ("budget", "blocks", "always_on", "expected"),
    [
        (0.6, 14, (0, 13), 8),  # 8.4
        (0.7, 14, (0, 13), 10),  # 9.8
        (0.6, 48, (0, 2, 8, 44, 47), 29),  # 28.8
        (0.6, 8, (0, 7), 5),  # 4.8
        (0.5, 13, (), 6),  # 6.5
        (0.15, 14, (0, 1, 2), 3),
        (1.0, 14, (0, 13), 14),
    ],
)
def test_a_budget_stands_for_the_nearest_number_of_blocks(
    budget: float, blocks: int, always_on: tuple[int, ...], expected: int
) -> None:
    assert block_count(budget, blocks, always_on) == expected


@pytest.mark.parametrize(
    ("weights", "expected"), [([0.5, 0.5], 1.0), ([0.0, 1.0], 0.0), ([0.5, 1.0], 0.5)]
)
def test_uncertainty_is_entropy(weights: list[float], expected: float) -> None:
    assert routing_uncertainty(torch.tensor(weights)) == pytest.approx(expected, abs=1e-3)


def test_a_recorded_rule_notes_what_the_rule_did() -> None:
    recorded = RecordedRule(TopK())
    rule: Rule = recorded.fresh()
    first = rule.keep(torch.tensor([0.1, 1.9]), [], 0.5)
    assert recorded.kept == [first] == [[False, True]]
    assert recorded.weights[0].tolist() == pytest.approx([0.1, 1.9])


def test_clipped_weights_do_not_hide_which_blocks_are_wanted_more() -> None:
    logits = torch.tensor([-9.0, 2.2, 3.0, 4.6, -9.0, -5.0])
    weights = unclipped_weights(logits, 0.5, [5], "paper")
    assert (weights.clamp(max=1)[1:4] == 1).sum() >= 1 and weights.max() > 1
    assert TopK().keep(weights, [5], 0.5) == [False, False, True, True, False, True]
