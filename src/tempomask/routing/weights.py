"""From a router's logits to activation weights w, and from these to draws (RDS, Algorithm 1).

p = sigmoid(l / T) and w = min(c p, 1), with T the temperature. Two ways to choose c:

    free    c makes the weights of the free blocks, those outside K, sum to k - |K|: what the cap at
            1 takes from some goes to the others (water-filling). K's weights are 1.
    paper   c = beta L / sum p over all blocks, K included, as Algorithm 1 has it. What K is given
            is spent twice, since K runs anyway, and what the cap takes is lost.

k is the number of blocks that a budget beta allows, `budget.block_count`. L encoder blocks, K the
blocks that always run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tempomask.routing.budget import block_count
from tempomask.routing.options import WeightsForm

# The least p, as a share of the greatest: keeps sums above 0 where all logits are far below 0.
LEAST_SHARE = 1e-9


def activation_weights(
    logits: Tensor, budget: float, always_on: Sequence[int], form: WeightsForm = "free"
) -> Tensor:
    """The weights w in [0, 1] of `unclipped_weights`."""
    return unclipped_weights(logits, budget, always_on, form).clamp(max=1.0)


def unclipped_weights(
    logits: Tensor, budget: float, always_on: Sequence[int], form: WeightsForm = "free"
) -> Tensor:
    """c p: among blocks whose w is 1, it still tells which are wanted more.

    Args:
        logits: (..., L), already divided by the temperature.
        budget: beta in (0, 1].
        always_on: K.
        form: how c is chosen, see the top of this file.
    """
    total = logits.shape[-1]
    if form == "paper":
        p = logits.sigmoid()
        return budget * total * p / p.sum(dim=-1, keepdim=True)
    weights = torch.ones_like(logits)
    free = [index for index in range(total) if index not in always_on]
    if not free:
        return weights
    log_p = F.logsigmoid(logits[..., free])
    # Only ratios of p matter here, and these do not underflow.
    p = (log_p - log_p.detach().amax(dim=-1, keepdim=True)).exp().clamp(min=LEAST_SHARE)
    weights[..., free] = _filled(p, block_count(budget, total, always_on) - len(always_on))
    return weights


def _filled(p: Tensor, count: int) -> Tensor:
    """c p (..., F) with c such that the sum of min(c p, 1) is count, which is at most F."""
    ordered = p.sort(dim=-1, descending=True).values
    capped = torch.arange(p.shape[-1], device=p.device)
    # c where the greatest 0, 1, 2, ... weights are capped, and the others share the rest.
    scale = (count - capped).clamp(min=0) / ordered.flip(-1).cumsum(-1).flip(-1)
    fits = scale * ordered <= 1 + 1e-6
    return scale.gather(-1, fits.int().argmax(dim=-1, keepdim=True)) * p


def draw_exactly(
    weights: Tensor, always_on: Sequence[int], count: int, generator: torch.Generator
) -> Tensor:
    """bool (B, L): `count` blocks of each sample, K among them, each with probability about w.

    The blocks of largest logit(w) + noise, with logistic noise (the difference of two Gumbel
    variables): where this sum is above 0, a Bernoulli draw would run the block.

    Args:
        weights: (B, L) on the CPU, unclipped; a weight of 1 or more is always drawn.
        always_on: K.
        count: blocks to run, at least as many as K has.
        generator: of the noise, on the CPU.
    """
    noise = torch.rand(weights.shape, generator=generator).clamp(1e-7, 1 - 1e-7).logit()
    # Sure blocks come first, those that are wanted most before the others.
    keys = torch.where(weights >= 1, 1e6 * weights, weights.clamp(0, 1).logit() + noise)
    keys[:, list(always_on)] = torch.inf
    drawn = torch.zeros(weights.shape, dtype=torch.bool)
    order = keys.argsort(dim=1, descending=True, stable=True)
    return drawn.scatter_(1, order[:, :count], True)


def draw_bernoulli(weights: Tensor, always_on: Sequence[int], generator: torch.Generator) -> Tensor:
    """bool (B, L): each block by itself with probability w, K always (the paper's draws)."""
    drawn = torch.rand(weights.shape, generator=generator) < weights
    drawn[:, list(always_on)] = True
    return drawn
