"""A plan that routes every sample of a batch by itself, in training with gradients.

B batch, L encoder blocks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tempomask.models.encoder import RoutedBlock


class RoutedPlan:
    """X' = r h(X) + (1 - r) X with r 0 or 1: a block runs on the samples that want it.

    Args:
        keep: r, (B, L).
        weights: (B, L), in training: r has their gradient, dr / dw = 1 (straight-through). None
            without gradients.
        skipped_gradient: give w its gradient h(X) - X where r is 0 too, as the equation says; h is
            then computed for it. Without it a block that no sample wants is not computed, and a
            skipped block is not learnt from.
    """

    def __init__(
        self,
        keep: list[list[bool]],
        weights: Tensor | None = None,
        skipped_gradient: bool = False,
    ) -> None:
        self.keep, self._weights, self._skipped_gradient = keep, weights, skipped_gradient

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        rows = [row for row, kept in enumerate(self.keep) if kept[index]]
        skipped = [row for row, kept in enumerate(self.keep) if not kept[index]]
        if not skipped:
            return self._ran(index, None, x, block(x))
        if self._weights is not None and self._skipped_gradient:
            x = self._skipped(index, torch.tensor(skipped, device=x.device), block, x)
        if not rows:
            return x
        chosen = torch.tensor(rows, device=x.device)
        inputs = x.index_select(0, chosen)
        outputs = self._ran(index, chosen, inputs, block(inputs))
        return x.to(outputs.dtype).index_copy(0, chosen, outputs)

    def _skipped(self, index: int, skipped: Tensor, block: RoutedBlock, x: Tensor) -> Tensor:
        """x, unchanged in value, with the gradient of w on the samples that skip the block."""
        inputs = x.index_select(0, skipped)
        # r is 0, so that nothing of h but its value enters a gradient.
        with torch.no_grad():
            change = block(inputs) - inputs
        step = self._step(index, skipped, x)
        return x.index_copy(0, skipped, inputs + step * change.to(x.dtype))

    def _ran(self, index: int, chosen: Tensor | None, inputs: Tensor, outputs: Tensor) -> Tensor:
        """The block's outputs, unchanged in value, with the gradient of w."""
        if self._weights is None or inputs.shape != outputs.shape:
            return outputs
        return outputs + self._step(index, chosen, outputs) * (outputs - inputs)

    def _step(self, index: int, rows: Tensor | None, like: Tensor) -> Tensor:
        """0 in value and dw in gradient, (B, 1, 1, 1) of the given rows."""
        assert self._weights is not None
        weights = self._weights[:, index]
        if rows is not None:
            weights = weights.index_select(0, rows)
        return (weights - weights.detach()).to(like.dtype)[:, None, None, None]

    @property
    def blocks(self) -> Tensor:
        return torch.tensor(self.keep)
