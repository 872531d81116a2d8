"""The budget at which a method costs a given share of the encoder's multiply-adds.

Methods mean different things by their budgets: blocks, tokens of the MLPs, channels. A comparison
trains each at budgets of which the same cost is expected, and afterwards measures what it costs.

Expected are, beside what is exact (a static plan, attention and adapters of DyT): free blocks of
the mean cost for what chooses its blocks by training or measuring; SlimSAM's widths for random
importances.
"""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.flops import encoder_cost, frame_cost, total
from studies.rds.speed_candidates import slimmed
from tempomask.baselines.dyt import ADAPTER_DIM
from tempomask.baselines.methods import METHODS
from tempomask.baselines.static import Plan, static_blocks
from tempomask.models.segmenter import Segmenter

PLANS: dict[str, Plan] = {"static-a": "a", "static-b": "b", "pbd-last": "last"}
# Their budgets are not numbers of blocks: costs are expected at these, and lie on lines between.
SMOOTH = {"dyt": (0.01, 1.0), **dict.fromkeys(("slim", "slim-paper"), (0.1, 0.25, 0.5, 0.75, 1.0))}


class EncoderCosts:
    """What the methods are expected to cost on a network.

    full: of its encoder with the neck, in multiply-adds, attention's products included.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        self.segmenter, self.cost = segmenter, frame_cost(segmenter)
        self.full = self.cost.encoder().total
        self._known: dict[str, dict[float, float]] = {}

    def share(self, method: str, budget: float) -> float:
        """The expected cost of a method at a budget of its own, as a share of the full encoder."""
        encoder, blocks = self.segmenter.encoder, self.cost.blocks
        if method in PLANS:
            kept = static_blocks(encoder, PLANS[method], budget)
            ran = self.cost.encoder([index in kept for index in range(len(blocks))]).total
        elif method == "dyt":
            mlps = [block.feed_forward.total for block in blocks]
            adapters = sum(
                macs
                * ADAPTER_DIM
                / encoder.linear_layers(index)[f"blocks.{index}.expand"].out_features
                for index, macs in enumerate(mlps)
            )
            ran = self.full - (1 - budget) * sum(mlps) + adapters
        elif method in SMOOTH:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                ran = encoder_cost(slimmed(self.segmenter, budget)).total
        else:
            core = METHODS[method].core(encoder)
            free = total(b.macs for index, b in enumerate(blocks) if index not in core).total
            skipped = len(blocks) - round(budget * len(blocks))
            ran = self.full - free * skipped / max(1, len(blocks) - len(core))
        return ran / self.full

    def budget(self, method: str, share: float) -> float | None:
        """The budget at which a method is expected to cost a share of the full encoder.

        The nearest, where it goes by whole blocks; None where its smallest costs more.
        """
        shares = self._shares(method)
        budgets, costs = list(shares), list(shares.values())
        if method in SMOOTH:
            found = float(np.interp(share, costs, budgets))
            return None if share < costs[0] else round(found, 3)
        half_a_block = (costs[-1] - costs[0]) / max(1, len(costs) - 1) / 2
        nearest = min(shares, key=lambda budget: abs(shares[budget] - share))
        return None if share < costs[0] - half_a_block else nearest

    def _shares(self, method: str) -> dict[float, float]:
        """Expected costs by budget, ascending; SlimSAM's two trainings share theirs."""
        kind = "slim" if method in SMOOTH and method != "dyt" else method
        if kind not in self._known:
            encoder = self.segmenter.encoder
            least = max(1, len(METHODS[kind].core(encoder)))
            counts = range(least, encoder.num_blocks + 1)
            budgets = SMOOTH.get(kind) or [count / encoder.num_blocks for count in counts]
            self._known[kind] = {budget: self.share(kind, budget) for budget in budgets}
        return self._known[kind]
