"""DyT: a gate per token decides whether the block's MLP sees the token.

arXiv 2403.11808: attention runs for all tokens; a bottleneck adapter, parallel to the MLP, runs for
all tokens too, so that those that skip the MLP are still adapted.

B batch, h x w token grid, C channels.
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
from tempomask.baselines.settings import DyTConfig
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, RoutedBlock, RoutedNetwork
from tempomask.models.hybrid import TransformerBlock
from tempomask.models.windowed_block import WindowedBlock

# Of the paper's adapters.
ADAPTER_DIM, ADAPTER_SCALE = 64, 0.1


class Adapter(nn.Module):
    """Down to 64 channels, ReLU, up, times 0.1; zero before training. (..., C), same shape."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.down = nn.Linear(dim, ADAPTER_DIM)
        self.up = nn.Linear(ADAPTER_DIM, dim)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        return ADAPTER_SCALE * self.up(F.relu(self.down(tokens)))


class DyT(GatedPolicy):
    """A token gate and an adapter for every block.

    In training the MLP is computed for every token and multiplied by the decision, as the authors
    do. Otherwise the tokens that pass are gathered, computed and scattered back.
    """

    def __init__(self, encoder: Encoder, keep_ratio: float = 0.5) -> None:
        """keep_ratio: share of tokens for the MLPs; the gates start from it.

        InputError for an encoder whose blocks cannot take tokens out of their map (DINOv3's).
        """
        super().__init__()
        for block in encoder.blocks:
            if not isinstance(block, (WindowedBlock, TransformerBlock)):
                raise InputError(
                    f"DyT needs MLPs that take any tokens, which {type(block).__name__} does not;"
                    " use adavit or rds"
                )
        self.keep_ratio = keep_ratio
        widths = token_widths(encoder)[1:]
        self.gates = nn.ModuleList(Gate(width, keep_ratio) for width in widths)
        self.adapters = nn.ModuleList(Adapter(width) for width in widths)

    def __repr__(self) -> str:
        return f"DyT(keep_ratio={self.keep_ratio:g}, threshold={self.threshold.item():g})"

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> DyTPlan:
        return DyTPlan(self)


class DyTPlan:
    """One pass. token_shares: of each block so far, how many of its tokens the MLP saw; scalars."""

    def __init__(self, policy: DyT) -> None:
        self.policy = policy
        self.token_shares: list[Tensor] = []

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        """Attention for all of x (B, h, w, C), the MLP for the tokens that the gate lets pass."""
        x = block.attend(x)
        decision = self.policy.decide(index, self.policy.gates[index](x))
        self.token_shares.append(decision.detach().float().mean())
        adapted = x + self.policy.adapters[index](x)
        if self.policy.training:
            return adapted + decision[..., None].to(x.dtype) * (block.feed_forward(x) - x)
        return add_chosen(block, x, adapted, decision > 0.5)

    @property
    def blocks(self) -> Tensor:
        """Every block runs, if only its attention."""
        return torch.ones(len(self.token_shares), dtype=torch.bool)


def add_chosen(block: RoutedBlock, x: Tensor, base: Tensor, chosen: Tensor) -> Tensor:
    """base (B, h, w, C) plus the MLP of the tokens of x that are marked in chosen (B, h, w)."""
    rows = chosen.flatten().nonzero()[:, 0]
    if len(rows) == 0:
        return base
    tokens = x.flatten(0, 2)[rows]
    # feed_forward takes maps; the gathered tokens are a map of one row.
    change = block.feed_forward(tokens[None, None])[0, 0] - tokens
    return base.flatten(0, 2).index_add(0, rows, change.to(base.dtype)).view_as(base)


class DyTMethod(GatedMethod):
    """A gate for every token before every MLP.

    budget: the share of tokens that the MLPs see, as in RDS, where its FLOPs are then higher than
    the budget says (629 G at 0.6, against 500 G). The release also trains the complete network
    along, and aligns to it; here the complete network is the untouched one, and alignment a setting
    of the training, as for every method.
    """

    name = "dyt"

    def __init__(
        self,
        budget: float,
        config: DyTConfig,
        adapters: AdapterConfig,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        super().__init__(budget, config.gate_rate, adapters, progress)
        self.config = config

    def make_policy(self, encoder: Encoder) -> DyT:
        return DyT(encoder, self.budget)

    def share_of_yes(self, policy: GatedPolicy) -> float:
        return self.budget

    def usage_loss(self, taken: Sequence[Decisions], wanted: float) -> Tensor:
        """The token loss of the release: (usage - wanted)^2, and a minimum for every image and MLP.

        What an image's tokens lack to the minimum is summed over images and blocks. The release's
        loss has a minimum of 0.1 and weight 1; its commands set both to 0.
        """
        config = self.config
        lacking = [(config.minimum - d.drawn.flatten(1).mean(1)).clamp(min=0).sum() for d in taken]
        usage = (means_of_blocks(taken).mean() - wanted).square()
        return config.usage * (usage + config.minimum_weight * torch.stack(lacking).sum())


def attach(network: RoutedNetwork, export: Export) -> LoadedAdapter:
    """Merge the adapters and rebuild the token gates."""
    budget = export.setting("budget", float)
    return attach_gates(network, export, DyT(network.encoder, budget), budget)
