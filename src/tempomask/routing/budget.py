"""Budgets and the rules that turn activation weights into a choice of blocks (RDS, Algorithm 1).

A budget beta stands for k blocks, K among them: beta L rounded to a whole number (`block_count`).
Training, every rule and every method that RDS is compared with take k from there.

The paper's deterministic rule keeps every block with w >= tau, which does not hold the budget:
where the router is indifferent, all blocks run or only K. `TopK` holds it on every frame, and a
calibrated threshold (`calibrate_threshold`) holds it on average over the videos it was made with.

L encoder blocks, K the blocks that always run, w their weights (`routing.weights`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from tempomask.errors import InputError, check_share
from tempomask.ops.resumable import Resumable

# The paper's default tau.
THRESHOLD = 0.5


def smallest_budget(num_blocks: int, always_on: Sequence[int]) -> float:
    """The share of blocks that K alone takes, rounded up to three decimals."""
    return math.ceil(1000 * len(always_on) / num_blocks) / 1000


def check_budget(budget: float, num_blocks: int, always_on: Sequence[int]) -> float:
    """The budget, if K fits into it; InputError otherwise, naming the smallest possible."""
    check_share("budget", budget)
    least = smallest_budget(num_blocks, always_on)
    if budget * num_blocks < len(always_on) - 1e-6:
        raise InputError(
            f"budget {budget:g} is too small: {len(always_on)} of the {num_blocks} blocks always"
            f" run; the smallest budget is {least:g}"
        )
    return budget


def block_count(budget: float, num_blocks: int, always_on: Sequence[int] = ()) -> int:
    """k, the blocks that run at a budget: beta L rounded, at least K's; halves are rounded down."""
    return max(len(always_on), math.floor(budget * num_blocks + 0.5 - 1e-6))


class Rule(Resumable, ABC):
    """Chooses the blocks of a frame from their weights."""

    @abstractmethod
    def keep(self, weights: Tensor, always_on: Sequence[int], budget: float) -> list[bool]:
        """weights (L,) on the CPU, unclipped; True for blocks that run, among them always_on."""

    def fresh(self) -> Rule:
        """The same rule at the beginning of a video."""
        return self


@dataclass(frozen=True)
class TopK(Rule):
    """The k blocks of largest w, K among them."""

    def keep(self, weights: Tensor, always_on: Sequence[int], budget: float) -> list[bool]:
        ranked = weights.clone()
        ranked[list(always_on)] = math.inf
        count = block_count(budget, len(weights), always_on)
        kept = torch.zeros(len(weights), dtype=torch.bool)
        # Ties go to the earlier block, whatever the machine.
        kept[ranked.argsort(descending=True, stable=True)[:count]] = True
        return kept.tolist()


@dataclass(frozen=True)
class Threshold(Rule):
    """Blocks with w >= tau: the paper's deterministic rule; a calibrated tau makes it hold."""

    tau: float = THRESHOLD

    def keep(self, weights: Tensor, always_on: Sequence[int], budget: float) -> list[bool]:
        kept = weights >= self.tau
        kept[list(always_on)] = True
        return kept.tolist()


class Stochastic(Rule):
    """Each block by chance, with probability w (the paper's draws); same seed, same draws."""

    state_types: ClassVar = {"_generator": torch.Generator}

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def keep(self, weights: Tensor, always_on: Sequence[int], budget: float) -> list[bool]:
        kept = torch.rand(len(weights), generator=self._generator) < weights
        kept[list(always_on)] = True
        return kept.tolist()

    def __repr__(self) -> str:
        return f"Stochastic(seed={self.seed})"

    def fresh(self) -> Stochastic:
        return Stochastic(self.seed)


class RecordedRule(Rule):
    """Another rule; what it was given and what it chose is kept, over all videos it is used on.

    weights: (L,) of each frame, unclipped, as thresholds are compared with them. kept: its choices.
    """

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.weights: list[Tensor] = []
        self.kept: list[list[bool]] = []

    def keep(self, weights: Tensor, always_on: Sequence[int], budget: float) -> list[bool]:
        kept = self.rule.keep(weights, always_on, budget)
        self.weights.append(weights)
        self.kept.append(kept)
        return kept

    def __repr__(self) -> str:
        return f"RecordedRule({self.rule})"

    def fresh(self) -> RecordedRule:
        """Itself: the records of all videos are wanted together."""
        return self


def calibrate_threshold(weights: Tensor, always_on: Sequence[int], budget: float) -> float:
    """The tau at which the mean share of blocks with w >= tau, or in K, comes nearest to budget.

    weights: (frames, L), unclipped, as a router gave them at this budget; at least one frame. Of
    thresholds that keep the budget the one that uses most of it is taken, so the share never
    exceeds it by more than equal weights force.
    """
    frames, num_blocks = weights.shape
    check_budget(budget, num_blocks, always_on)
    free = [i for i in range(num_blocks) if i not in always_on]
    # A budget may fall short of K by a rounding error, which frames multiply.
    allowed = max(0, math.floor((budget * num_blocks - len(always_on)) * frames + 1e-6))
    ranked = weights[:, free].flatten().double().sort(descending=True).values
    if allowed >= len(ranked):
        return 0.0
    # Halfway between the last weight that fits and the first that does not.
    first_out = ranked[allowed].item()
    last_in = ranked[allowed - 1].item() if allowed else max(1.0, first_out) + 1e-6
    return (first_out + last_in) / 2 if last_in > first_out else first_out


class BudgetControl(Resumable, ABC):
    """Chooses beta frame by frame; it follows one video, as `models.encoder.Policy` does."""

    @property
    def reads_results(self) -> bool:
        """Whether it looks at the results of a frame, or at when they are there."""
        return False

    @abstractmethod
    def budget(self, uncertainty: float) -> float:
        """The share of blocks that the frame at hand may use.

        uncertainty: of the router about this frame, in [0, 1], see `routing_uncertainty`.
        """

    def spent(self, share: float) -> None:
        """The share of blocks that the rule then kept."""

    def fresh(self) -> BudgetControl:
        """The same control at the beginning of a video."""
        return self

    def begin_frame(self) -> None:
        """A frame has come."""

    def end_frame(self, predicted_iou: Sequence[float], object_scores: Sequence[float]) -> None:
        """Results of the frame, of each object; scores are logits."""


@dataclass(frozen=True)
class FixedBudget(BudgetControl):
    """The same beta on every frame, as in the paper."""

    share: float

    def budget(self, uncertainty: float) -> float:
        return self.share


def routing_uncertainty(weights: Tensor) -> float:
    """Mean binary entropy in bits of w (L,): 0 for a sure router, 1 where every w is a half."""
    w = weights.double().clamp(1e-6, 1 - 1e-6)
    return (-(w * w.log2() + (1 - w) * (1 - w).log2())).mean().item()
