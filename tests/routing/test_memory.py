"""Memory routing: which tokens attend, that the budget holds, and when all attend."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.errors import InputError
from tempomask.routing.memory import Focus, MemoryRouter

GRIDS = st.tuples(st.integers(4, 24), st.integers(4, 24))
MIDDLE = (4.0, 4.0)


def square(grid: tuple[int, int], top: int, left: int, side: int) -> torch.Tensor:
    """Logits (1, 4h, 4w) of a square, in tokens."""
    logits = torch.full((1, 4 * grid[0], 4 * grid[1]), -5.0)
    logits[:, 4 * top : 4 * (top + side), 4 * left : 4 * (left + side)] = 5.0
    return logits


@settings(deadline=None, max_examples=40)
@given(
    GRIDS,
    st.floats(0.05, 1),
    st.integers(0, 20),
    st.integers(1, 20),
    st.tuples(st.floats(-9, 9), st.floats(-9, 9)),
)
def test_every_token_gets_a_result_within_the_budget(
    grid: tuple[int, int], budget: float, start: int, side: int, shift: tuple[float, float]
) -> None:
    router, tokens = MemoryRouter(budget, grid), grid[0] * grid[1]
    index, source = router.choose(square(grid, start, start, side), [shift])
    assert index.shape == (1, router.count)
    assert router.count <= max(1, budget * tokens)
    assert index.unique().numel() == router.count
    # Every token takes the result of the nearest one that attends, its own if it does.
    y, x = torch.arange(tokens) // grid[1], torch.arange(tokens) % grid[1]
    squared = (y[:, None] - y[index[0]]) ** 2 + (x[:, None] - x[index[0]]) ** 2
    taken = squared.gather(1, source[0][:, None])[:, 0]
    assert torch.equal(taken, squared.min(dim=1).values)


def test_tokens_near_the_mask_and_where_it_moves_attend() -> None:
    grid = (16, 16)
    router = MemoryRouter(0.5, grid)
    index, _ = router.choose(square(grid, 6, 3, 4), [(0.0, 6.2)])
    attends = torch.zeros(256, dtype=torch.bool)
    attends[index[0]] = True
    attends = attends.view(grid)
    assert attends[6:10, 3:7].all()
    assert attends[6:10, 9:13].all()
    assert attends[5, 2:8].all()
    assert attends.float().mean() < 0.5
    # Elsewhere a few are left, for what turns up there.
    assert 0 < attends[13:].float().mean() < 0.5


def test_objects_have_tokens_of_their_own() -> None:
    grid = (12, 12)
    router = MemoryRouter(0.3, grid)
    masks = [square(grid, 0, 0, 3), square(grid, 8, 8, 3)]
    index, source = router.choose(torch.cat(masks), [(0.0, 0.0), (0.0, 1.0)])
    for row, (mask, shift) in enumerate(zip(masks, [(0.0, 0.0), (0.0, 1.0)], strict=True)):
        alone = router.choose(mask, [shift])
        assert torch.equal(index[row], alone.tokens[0])
        assert torch.equal(source[row], alone.source[0])
    assert not torch.equal(index[0], index[1])


def follow(
    router: MemoryRouter, earlier: Focus | None, mask: torch.Tensor, score: float, iou: float
) -> Focus:
    return router.route([earlier], mask, torch.tensor([score]), torch.tensor([iou]))[0]


def test_all_attend_at_first_and_after_a_loss() -> None:
    router, mask = MemoryRouter(0.5, (12, 12)), square((12, 12), 2, 2, 3)
    first = follow(router, None, mask, 9.0, 1.0)
    second = follow(router, first, square((12, 12), 3, 4, 3), 9.0, 0.9)
    assert [first.routed, second.routed] == [False, True]
    assert second.shift == pytest.approx((1.0, 2.0))
    for lost in (
        follow(router, second, mask, -1.0, 0.9),
        follow(router, second, torch.full_like(mask, -3.0), 9.0, 0.9),
    ):
        assert not lost.routed
        found = follow(router, lost, mask, 9.0, 0.9)
        assert not found.routed
        assert follow(router, found, mask, 9.0, 0.9).routed


@pytest.mark.parametrize(("score", "iou"), [(9.0, 0.5), (2.0, 0.9)])
def test_all_attend_once_the_network_is_unsure(score: float, iou: float) -> None:
    router, mask = MemoryRouter(0.5, (12, 12)), square((12, 12), 2, 2, 3)
    sure = Focus(MIDDLE, (0.0, 0.0), 0.9, 9.0, saved=0.1, routed=True)
    assert follow(router, sure, mask, 9.0, 0.9).routed
    unsure = follow(router, sure, mask, score, iou)
    assert not unsure.routed
    # Then the overdrawn budget is saved first.
    assert follow(router, unsure, mask, score, iou).routed


@pytest.mark.parametrize("budget", [0.1, 0.3, 0.5, 0.7, 0.95])
def test_the_mean_stays_within_the_budget(budget: float) -> None:
    router, rng = MemoryRouter(budget, (24, 24)), np.random.default_rng(0)
    mask, share = square((24, 24), 2, 2, 3), router.count / 24**2
    focus, spent = Focus(MIDDLE, (0.0, 0.0), 0.9, 9.0), []
    for frame in range(1, 200):
        focus = follow(router, focus, mask, rng.uniform(1, 10), rng.uniform(0.3, 1))
        spent.append(share if focus.routed else 1.0)
        assert math.fsum(spent) / frame <= budget + (1 - budget) / frame + 1e-6
    assert share <= budget
    # What is saved is used.
    assert math.fsum(spent) / len(spent) > 0.95 * budget


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.5, math.nan])
def test_a_budget_is_a_share(budget: float) -> None:
    with pytest.raises(InputError, match="memory_budget"):
        MemoryRouter(budget, (4, 4))
