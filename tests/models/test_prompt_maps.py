"""Prompt maps: what clicks and boxes say about places, and that nothing else changes them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempomask.models.prompt_maps import BOX_MAPS, CLICK_MAPS, PromptMaps

# h = w = 8 cells of 16 pixels.
DIM, SIDE, SIZE, CELL = 16, 8, 128, 16
POSITIVE, NEGATIVE = slice(0, CLICK_MAPS), slice(CLICK_MAPS, 2 * CLICK_MAPS)
BOX = slice(2 * CLICK_MAPS, 2 * CLICK_MAPS + BOX_MAPS)
ALIKE, NEAR, NEARBY = range(3)
INSIDE, CENTRE = range(2)


@pytest.fixture(scope="module")
def network() -> PromptMaps:
    torch.manual_seed(0)
    return PromptMaps(DIM)


def features(objects: int = 1, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(objects, DIM, SIDE, SIDE, generator=generator)


def prompt(*points: tuple[float, float, int]) -> tuple[Tensor, Tensor]:
    """points (1, P, 2) and labels (1, P) from x, y, label."""
    return torch.tensor([[p[:2] for p in points]]), torch.tensor([[p[2] for p in points]])


def maps_of(network: PromptMaps, x: Tensor, points: Tensor, labels: Tensor) -> Tensor:
    """The maps (N, 10, h, w) that are mixed into the dense prompt."""
    seen: list[Tensor] = []
    hook = network.mix.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    network(x, points, labels, SIZE)
    hook.remove()
    return seen[0].detach()


def peak(plane: Tensor) -> tuple[int, int]:
    """Column and row of the greatest value."""
    row, column = divmod(int(plane.argmax()), plane.shape[1])
    return column, row


def test_without_prompts_they_are_zeros(network: PromptMaps) -> None:
    points, labels = torch.rand(2, 3, 2) * SIZE, torch.full((2, 3), -1)
    assert torch.count_nonzero(network(features(2), points, labels, SIZE)) == 0
    labels[1, 0] = 1
    dense = network(features(2), points, labels, SIZE)
    assert dense.shape == (2, DIM, SIDE, SIDE)
    assert torch.count_nonzero(dense[0]) == 0 and torch.count_nonzero(dense[1]) > 0


@pytest.mark.parametrize(
    "given_points",
    [
        [(40.0, 70.0, 1)],
        [(40.0, 70.0, 0), (90.0, 20.0, 1)],
        [(16.0, 32.0, 2), (80.0, 96.0, 3)],
    ],
)
@pytest.mark.parametrize("pad", [(0.0, 0.0), (127.0, 64.0)])
def test_padding_is_ignored(
    network: PromptMaps, given_points: list[tuple[float, float, int]], pad: tuple[float, float]
) -> None:
    bare = network(features(), *prompt(*given_points), SIZE)
    padded = network(features(), *prompt(*given_points, (*pad, -1)), SIZE)
    assert torch.allclose(bare, padded, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(
    column=st.integers(0, SIDE - 1),
    row=st.integers(0, SIDE - 1),
    dx=st.floats(-6, 6),
    dy=st.floats(-6, 6),
    label=st.sampled_from([0, 1]),
)
def test_a_click_peaks_where_it_is(
    network: PromptMaps, column: int, row: int, dx: float, dy: float, label: int
) -> None:
    # Pixel x covers x to x + 1, so 7.5 is the middle of the first cell.
    x, y = column * CELL + 7.5 + dx, row * CELL + 7.5 + dy
    maps = maps_of(network, features(), *prompt((x, y, label)))[0]
    own, other = (POSITIVE, NEGATIVE) if label else (NEGATIVE, POSITIVE)
    assert peak(maps[own][NEAR]) == (column, row)
    assert peak(maps[own][NEARBY]) == (column, row)
    assert torch.count_nonzero(maps[other]) == 0
    assert torch.count_nonzero(maps[BOX]) == 0
    assert maps[own][NEAR].min() >= 0 and maps[own][NEAR].max() <= 1


def test_the_near_map_falls_faster_than_the_nearby_one(network: PromptMaps) -> None:
    maps = maps_of(network, features(), *prompt((71.5, 71.5, 1)))[0, POSITIVE]
    at, beside = maps[:, 4, 4], maps[:, 4, 6]
    assert at[NEAR] == pytest.approx(1) and at[NEARBY] == pytest.approx(1)
    assert beside[NEAR] < 0.01 < 0.2 < beside[NEARBY]


def test_a_click_is_most_alike_to_its_own_cell_and_its_likes(network: PromptMaps) -> None:
    x = features()
    # Two cells look alike, as two parts of one object may.
    x[0, :, 1, 6] = x[0, :, 5, 2] * 3
    alike = maps_of(network, x, *prompt((2 * CELL + 7.5, 5 * CELL + 7.5, 1)))[0, ALIKE]
    assert alike[5, 2] == pytest.approx(1, abs=1e-4)
    others = alike.flatten().sort(descending=True).values
    assert alike[1, 6] == pytest.approx(float(others[1]), abs=1e-6)
    assert alike.abs().max() <= 1 + 1e-5


def test_of_several_points_the_best_counts(network: PromptMaps) -> None:
    one, other = (23.5, 23.5, 1), (103.5, 87.5, 1)
    x = features()
    both = maps_of(network, x, *prompt(one, other))[:, POSITIVE]
    apart = [maps_of(network, x, *prompt(point))[:, POSITIVE] for point in (one, other)]
    assert torch.allclose(both, torch.maximum(*apart), atol=1e-6)
    assert both[0, NEAR, 1, 1] == pytest.approx(1) and both[0, NEAR, 5, 6] == pytest.approx(1)


def test_the_box_map_is_inside(network: PromptMaps) -> None:
    """Columns 1 to 4 and rows 2 to 5, whose cells lie within the box."""
    box = prompt((CELL - 0.5, 2 * CELL - 0.5, 2), (5 * CELL - 0.5, 6 * CELL - 0.5, 3))
    maps = maps_of(network, features(), *box)[0]
    inside, centre = maps[BOX][INSIDE], maps[BOX][CENTRE]
    wanted = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    wanted[2:6, 1:5] = True
    assert torch.equal(inside > 0.5, wanted)
    assert inside[wanted].min() > inside[~wanted].max()
    assert torch.equal(
        centre >= centre.max() - 1e-6,
        (wanted.roll((1, 1), (0, 1)) & wanted) & (wanted.roll((-1, -1), (0, 1)) & wanted),
    )
    assert torch.count_nonzero(maps[POSITIVE]) == torch.count_nonzero(maps[NEGATIVE]) == 0


def test_a_box_tells_its_own_from_what_is_around(network: PromptMaps) -> None:
    x = features() * 0.05
    inner, outer = features(seed=1)[0, :, 0, 0], features(seed=2)[0, :, 0, 0]
    x += outer[None, :, None, None]
    x[0, :, 2:6, 2:6] += (inner - outer)[:, None, None]
    box = prompt((2 * CELL - 0.5, 2 * CELL - 0.5, 2), (6 * CELL - 0.5, 6 * CELL - 0.5, 3))
    own, around = maps_of(network, x, *box)[0, BOX][2:]
    assert (own - around)[2:6, 2:6].min() > 0
    outside = torch.ones(SIDE, SIDE, dtype=torch.bool)
    outside[2:6, 2:6] = False
    assert (own - around)[outside].max() < 0


def test_a_box_of_no_extent_is_finite(network: PromptMaps) -> None:
    dense = network(features(), *prompt((50.0, 50.0, 2), (50.0, 50.0, 3)), SIZE)
    assert torch.isfinite(dense).all()


@pytest.mark.parametrize(
    "points", [[(40.0, 70.0, 1)], [(40.0, 70.0, 0)], [(16.0, 32.0, 2), (80.0, 96.0, 3)]]
)
def test_gradients_reach_weights_and_features(points: list[tuple[float, float, int]]) -> None:
    torch.manual_seed(0)
    network, x = PromptMaps(DIM), features().requires_grad_()
    network(x, *prompt(*points), SIZE).square().sum().backward()
    assert x.grad is not None and x.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(4)), seed=st.integers(0, 1000))
def test_objects_do_not_see_each_other(network: PromptMaps, order: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = features(4, seed)
    points = torch.rand(4, 3, 2, generator=generator) * SIZE
    labels = torch.tensor([[1, 0, -1], [2, 3, 1], [0, -1, -1], [-1, -1, -1]])
    dense = network(x, points, labels, SIZE)
    permuted = network(x[order], points[order], labels[order], SIZE)
    assert torch.allclose(dense[order], permuted, atol=1e-5)
