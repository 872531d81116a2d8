"""AdaViT: a router before every block decides, sample by sample, whether the block runs.

arXiv 2111.15668, as RDS compares with it (supplement, A.2): one decision for a whole block. Hiera
has no class token, so that a router sees the mean of the block's tokens.

B batch, h x w token grid, C channels, L number of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tempomask.adaptation.method import Export, LoadedAdapter
from tempomask.adaptation.options import AdapterConfig
from tempomask.baselines.gates import (
    Decisions,
    Gate,
    GatedMethod,
    GatedPolicy,
    attach_gates,
    means_of_blocks,
    token_widths,
)
from tempomask.baselines.settings import AdaViTConfig
from tempomask.models.encoder import Encoder, RoutedBlock, RoutedNetwork
from tempomask.routing.budget import check_budget
from tempomask.routing.plans import RoutedPlan


class PooledGate(Gate):
    """A gate of the mean of the tokens: (B, h, w, C) to (B,)."""

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.mean(dim=(1, 2)))


class AdaViT(GatedPolicy):
    """Gates for every block but the first (AdaViT keeps it) and those that change the shape.

    In training every block is computed and its change of x multiplied by the decision, as the
    authors do: a decision to skip still gets its gradient. Otherwise a skipped block is not
    computed, for a batch whose samples disagree only for those that run it.
    """

    def __init__(self, encoder: Encoder, budget: float = 0.5) -> None:
        """budget: share of all L blocks that shall run; the routers start from it."""
        super().__init__()
        self.budget = budget
        self.always = frozenset({0, *encoder.required_blocks})
        self.num_blocks = encoder.num_blocks
        # What a block takes in is what the one before it puts out.
        self.gates = nn.ModuleDict(
            {
                str(index): PooledGate(width, self.share_of_gates(budget))
                for index, width in enumerate(token_widths(encoder)[:-1])
                if index not in self.always
            }
        )

    def __repr__(self) -> str:
        return f"AdaViT(budget={self.budget:g}, threshold={self.threshold.item():g})"

    def share_of_gates(self, budget: float) -> float:
        """The share of the gated blocks that may run so that a share `budget` of all does."""
        gated = self.num_blocks - len(self.always)
        return min(max((budget * self.num_blocks - len(self.always)) / max(gated, 1), 0.0), 1.0)

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> AdaViTPlan:
        return AdaViTPlan(self)


class AdaViTPlan:
    """One pass: decisions (B,) per block, made when the block's turn comes."""

    def __init__(self, policy: AdaViT) -> None:
        self.policy = policy
        self.decisions: list[Tensor] = []

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        """x (B, h, w, C) through the block, for the samples whose router says so."""
        if index in self.policy.always:
            self.decisions.append(x.new_ones(x.shape[0], dtype=torch.bool))
            return block(x)
        decision = self.policy.decide(index, self.policy.gates[str(index)](x))
        chosen = decision.detach() > 0.5
        self.decisions.append(chosen)
        if self.policy.training:
            return x + decision[:, None, None, None].to(x.dtype) * (block(x) - x)
        return RoutedPlan(chosen[:, None].tolist()).apply(0, block, x)

    @property
    def blocks(self) -> Tensor:
        return torch.stack(self.decisions, dim=1)


class AdaViTMethod(GatedMethod):
    """A router before every block."""

    name = "adavit"

    def __init__(
        self,
        budget: float,
        config: AdaViTConfig,
        adapters: AdapterConfig,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(budget, config.gate_rate, adapters, progress)
        self.config = config

    def make_policy(self, encoder: Encoder) -> AdaViT:
        always = sorted({0, *encoder.required_blocks})
        check_budget(self.budget, encoder.num_blocks, always)
        return AdaViT(encoder, self.budget)

    def share_of_yes(self, policy: GatedPolicy) -> float:
        assert isinstance(policy, AdaViT)
        return policy.share_of_gates(self.budget)

    def usage_loss(self, taken: Sequence[Decisions], wanted: float) -> Tensor:
        """The layer loss of the release: |usage - wanted|, of all blocks together and of each.

        The entropy of the gates is rewarded. The release's class has 0.1 for both; its commands
        leave both out by default, as the paper does.
        """
        config, means = self.config, means_of_blocks(taken)
        loss = (means.mean() - wanted).abs() + config.diversity * (means - wanted).abs().mean()
        logits = torch.cat([decisions.logits.flatten() for decisions in taken])
        entropy = F.binary_cross_entropy_with_logits(logits, logits.sigmoid())
        return config.usage * (loss - config.entropy * entropy)


def attach(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """Merge the adapters and rebuild the routers."""
    budget = export.setting("budget", float)
    return attach_gates(network, export, AdaViT(network.encoder, budget), budget)
