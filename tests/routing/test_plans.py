"""Plans of a batch: each sample by itself, and gradients through what was drawn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tempomask.models.encoder import RoutedBlock
from tempomask.routing.plans import RoutedPlan


class Scale(RoutedBlock):
    """Adds its input times a factor; counts the samples it was run on."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.samples: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.samples.append(len(x))
        return x + self.factor * x


def test_a_block_runs_on_the_samples_that_want_it_and_on_no_others() -> None:
    blocks = [Scale(1.0), Scale(2.0), Scale(3.0)]
    plan = RoutedPlan([[True, False, False], [True, True, False], [True, False, False]])
    x = torch.arange(1.0, 4.0).reshape(3, 1, 1, 1)
    for index, block in enumerate(blocks):
        x = plan.apply(index, block, x)
    assert x.flatten().tolist() == [2.0, 4.0 * 3, 6.0]
    assert [block.samples for block in blocks] == [[3], [1], []]
    assert plan.blocks.tolist() == [[True, False, False], [True, True, False], [True, False, False]]


def test_gradients_go_straight_through_the_draw() -> None:
    """out = r h(x) + (1 - r) x, with d r / d w = 1 whether the block ran or not."""
    block = Scale(2.0)
    x = torch.tensor([1.0, 5.0, 7.0]).reshape(3, 1, 1, 1).requires_grad_()
    weights = torch.tensor([[0.3], [0.6], [0.9]], requires_grad=True)
    plan = RoutedPlan([[True], [False], [True]], weights, skipped_gradient=True)
    out = plan.apply(0, block, x)
    # The value is exactly the block's, whatever w is.
    assert out.flatten().tolist() == [3.0, 5.0, 21.0]
    upstream = torch.tensor([1.0, 10.0, 100.0])
    (out.flatten() * upstream).sum().backward()
    assert weights.grad is not None and x.grad is not None and block.factor.grad is not None
    # <upstream, h(x) - x>
    assert weights.grad.flatten().tolist() == pytest.approx([1.0 * 2, 10.0 * 10, 100.0 * 14])
    assert x.grad.flatten().tolist() == pytest.approx([3.0, 10.0, 300.0])
    assert block.factor.grad.item() == pytest.approx(1.0 * 1 + 100.0 * 7)


def test_without_the_gradient_of_skipped_blocks_nothing_of_them_is_computed() -> None:
    block = Scale(2.0)
    x = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    weights = torch.tensor([[0.3], [0.6]], requires_grad=True)
    out = RoutedPlan([[True], [False]], weights).apply(0, block, x)
    assert out.flatten().tolist() == [3.0, 5.0] and block.samples == [1]
    out.sum().backward()
    assert weights.grad is not None and weights.grad.flatten().tolist() == [2.0, 0.0]
    block.samples.clear()
    assert RoutedPlan([[False], [False]], weights).apply(0, block, x) is x
    assert block.samples == []
