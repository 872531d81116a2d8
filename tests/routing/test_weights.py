"""From logits to weights to draws: the budget is held whatever the logits are."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempomask.routing.budget import block_count, smallest_budget
from tempomask.routing.weights import (
    activation_weights,
    draw_bernoulli,
    draw_exactly,
    unclipped_weights,
)


@st.composite
def routed(draw: st.DrawFn) -> tuple[Tensor, list[int], float]:
    """Logits (L,), K, and a budget that K fits into."""
    count = draw(st.integers(3, 50))
    logits = torch.tensor(draw(st.lists(st.floats(-40, 40), min_size=count, max_size=count)))
    always_on = sorted(draw(st.sets(st.integers(0, count - 1), max_size=count // 2)))
    least = max(smallest_budget(count, always_on), 0.02)
    return logits, always_on, draw(st.floats(least, 1.0))


def free_of(logits: Tensor, always_on: list[int]) -> list[int]:
    return [i for i in range(logits.shape[-1]) if i not in always_on]


def filled_by_bisection(logits: Tensor, count: int) -> Tensor:
    """min(c p, 1) of the c at which these sum to count, found by trying."""
    log_p = torch.nn.functional.logsigmoid(logits.double())
    p = (log_p - log_p.max()).exp().clamp(min=1e-9)
    low, high = -20.0, 40.0
    for _ in range(200):
        middle = (low + high) / 2
        too_much = (p * 10**middle).clamp(max=1).sum() > count
        low, high = (low, middle) if too_much else (middle, high)
    return (p * 10**high).clamp(max=1)


@settings(deadline=None)
@given(routed())
def test_free_weights_sum_to_what_k_leaves(case: tuple[Tensor, list[int], float]) -> None:
    logits, always_on, budget = case
    w = activation_weights(logits.double(), budget, always_on)
    free, k = free_of(logits, always_on), block_count(budget, len(logits), always_on)
    left = k - len(always_on)
    assert w[free].sum().item() == pytest.approx(left, rel=1e-5, abs=1e-6)
    assert ((w >= 0) & (w <= 1)).all() and (w[always_on] == 1).all()
    order = logits[free].argsort()
    assert (w[free][order].diff() >= -1e-9).all(), "more is given to those wanted more"
    if 0 < left < len(free):
        assert w[free].tolist() == pytest.approx(
            filled_by_bisection(logits[free], left).tolist(), abs=1e-4
        )


@settings(deadline=None)
@given(routed())
def test_the_papers_weights_are_those_of_algorithm_1(
    case: tuple[Tensor, list[int], float],
) -> None:
    logits, always_on, budget = case
    weights = activation_weights(logits.double(), budget, always_on, "paper")
    p = logits.double().sigmoid().tolist()
    expected = [min(budget * len(p) * x / sum(p), 1.0) for x in p]
    assert weights.tolist() == pytest.approx(expected, rel=1e-4)


def test_logits_of_k_have_no_gradient_and_those_of_the_free_sum_to_nothing() -> None:
    """In the paper's form K is a sink: its p fall so that all other weights rise."""
    always_on, loss = [0, 5], torch.tensor([0.0, 3.0, -1.0, 2.0, 0.5, 0.0])
    gradients = {}
    for form in ("free", "paper"):
        logits = torch.zeros(6, requires_grad=True)
        weights = activation_weights(logits, 0.5, always_on, form)
        (weights[1:5] * loss[1:5]).sum().backward()
        assert logits.grad is not None
        gradients[form] = logits.grad
    assert gradients["free"][always_on].tolist() == [0, 0]
    assert gradients["free"].sum().item() == pytest.approx(0, abs=1e-6)
    assert (gradients["paper"][always_on] != 0).all()


def test_what_the_cap_takes_goes_to_the_others() -> None:
    logits = torch.tensor([0.0, 6.0, -3.0, -3.0, -3.0, 0.0])
    w = activation_weights(logits, 4 / 6, [0, 5])
    assert w.tolist() == pytest.approx([1, 1, 1 / 3, 1 / 3, 1 / 3, 1], abs=1e-5)
    capped = activation_weights(logits, 4 / 6, [0, 5], "paper")
    assert capped[2:5].sum() < 0.5, "lost there"


def test_where_all_blocks_always_run_there_is_nothing_to_choose() -> None:
    assert activation_weights(torch.tensor([3.0, -3.0]), 1.0, [0, 1]).tolist() == [1, 1]


def test_gradients_are_finite_far_from_zero() -> None:
    logits = torch.tensor([-200.0, -300.0, 90.0, -250.0, 80.0, 70.0], requires_grad=True)
    for form in ("free", "paper"):
        weights = unclipped_weights(logits / 0.2, 0.5, [2], form)
        weights.clamp(max=1).square().sum().backward()
        assert weights.isfinite().all() and logits.grad is not None
        assert logits.grad.isfinite().all()


@settings(deadline=None)
@given(routed(), st.integers(0, 1000))
def test_exact_draws_run_k_blocks(case: tuple[Tensor, list[int], float], seed: int) -> None:
    logits, always_on, budget = case
    count = block_count(budget, len(logits), always_on)
    weights = unclipped_weights(logits, budget, always_on)[None].repeat(4, 1)
    drawn = draw_exactly(weights, always_on, count, torch.Generator().manual_seed(seed))
    assert (drawn.sum(dim=1) == count).all() and drawn[:, always_on].all()
    assert drawn[weights >= 1].all() or (weights >= 1).sum(dim=1).max() > count


@pytest.mark.parametrize("kind", ["exact", "bernoulli"])
def test_draws_follow_w(kind: str) -> None:
    logits = torch.tensor([0.3, 1.0, -1.0, -2.0, 2.0, 0.0, -0.5, 0.1])
    always_on = [0, 7]
    weights = unclipped_weights(logits, 0.625, always_on)
    rows, generator = weights[None].repeat(6000, 1), torch.Generator().manual_seed(0)
    if kind == "exact":
        drawn = draw_exactly(rows, always_on, 5, generator)
    else:
        drawn = draw_bernoulli(rows, always_on, generator)
    assert drawn.double().mean(dim=0).tolist() == pytest.approx(
        weights.clamp(max=1).tolist(), abs=0.03
    )
