"""The router of RDS in training: plans are drawn by its weights, which learn from them.

B batch, L encoder blocks, K the blocks that always run, k the blocks of a budget.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tempomask.models.encoder import KeepPlan, Plan, Policy
from tempomask.routing.budget import TopK, block_count
from tempomask.routing.options import Draws
from tempomask.routing.plans import RoutedPlan
from tempomask.routing.predictive import MaskHistory, PredictiveRouter
from tempomask.routing.weights import draw_bernoulli, draw_exactly


class SamplingPolicy(nn.Module, Policy):
    """Draws a plan for every frame and sample, with straight-through gradients of the weights.

    A pass without previous masks runs all blocks and begins a new clip; a sample whose mask or
    embedding is not finite runs all blocks. In evaluation mode plans are chosen as in use (`TopK`).

    Attributes:
        temperature: of the draws now; training lowers it to the router's own.
        settled: choose as in use instead of drawing.
        straight_through: let the network's losses reach the router.
        logits: (B, L) of every routed frame of the clip at hand, with gradients.
        loads: mean number of blocks of every routed frame of the clip at hand.
    """

    recurrent = True

    def __init__(
        self,
        router: PredictiveRouter,
        budget: float,
        draws: Draws = "exact",
        skipped_gradient: bool = True,
    ) -> None:
        """Take a router to train at a budget.

        Args:
            router: trained by the gradients of its weights.
            budget: beta in (0, 1].
            draws: "exact" runs k blocks on every frame, as in use; "bernoulli" draws each block by
                itself, as the paper does.
            skipped_gradient: see `RoutedPlan`.
        """
        super().__init__()
        self.router, self.budget, self.draws = router, budget, draws
        self.skipped_gradient = skipped_gradient
        self.temperature = router.config.temperature
        self.settled, self.straight_through = False, True
        self.logits: list[Tensor] = []
        self.loads: list[float] = []
        self._generator = torch.Generator()
        self._history = MaskHistory(router.config.mask_frames)

    @property
    def load_in_use(self) -> int:
        """k: how many blocks run on a frame in use."""
        config = self.router.config
        return block_count(self.budget, config.num_blocks, config.always_on)

    def reseed(self, seed: int) -> None:
        """Start the draws anew; they come from the CPU, the same on every machine."""
        self._generator.manual_seed(seed)

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """See `models.encoder.Policy`."""
        config = self.router.config
        if previous_masks is None:
            self._history.clear()
            self.logits, self.loads = [], []
            return KeepPlan([True] * config.num_blocks)
        valid, masks = self._history.push(previous_masks.detach())
        logits = self.router(embedding, masks)
        temperature = self.temperature if self.training else config.temperature
        weights = self.router.weights(logits, self.budget, temperature)
        # The one transfer of this pass.
        usable = valid & weights.detach().isfinite().all(dim=1)
        known = torch.where(usable[:, None], weights.detach(), torch.inf).cpu()
        kept = self._chosen(known)
        if not (self.training and torch.is_grad_enabled()):
            return RoutedPlan(kept.tolist())
        self.logits.append(logits)
        self.loads.append(kept.sum(dim=1).double().mean().item())
        if not self.straight_through:
            return RoutedPlan(kept.tolist())
        return RoutedPlan(kept.tolist(), self._learnt(weights), self.skipped_gradient)

    def _chosen(self, weights: Tensor) -> Tensor:
        """bool (B, L) of unclipped weights on the CPU; infinite ones run everything."""
        always_on, usable = self.router.config.always_on, weights.isfinite().all(dim=1)
        if not self.training or self.settled:
            rule = TopK()
            kept = torch.tensor([rule.keep(row, always_on, self.budget) for row in weights])
        elif self.draws == "exact":
            kept = draw_exactly(weights, always_on, self.load_in_use, self._generator)
        else:
            kept = draw_bernoulli(weights, always_on, self._generator)
        return kept | ~usable[:, None]

    def _learnt(self, weights: Tensor) -> Tensor:
        """w with gradients; those of K, which run whatever their weight is, have none."""
        core = torch.zeros(weights.shape[-1], dtype=torch.bool, device=weights.device)
        core[list(self.router.config.always_on)] = True
        clipped = weights.clamp(max=1.0)
        return torch.where(core, clipped.detach(), clipped)
