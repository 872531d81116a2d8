"""The recurrent policy of RDS in use: router, budget and rule.

The host waits for the device once a frame, for the router's logits; with an adaptive budget,
and with fps on a camera, a second time, at the frame's end, for its results.

B batch, L encoder blocks, K the blocks that always run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.encoder import KeepPlan, Plan, Policy
from tempomask.ops.resumable import Resumable
from tempomask.routing.adaptive import AdaptiveBudget, AdaptiveConfig
from tempomask.routing.budget import (
    THRESHOLD,
    BudgetControl,
    FixedBudget,
    Rule,
    Stochastic,
    Threshold,
    TopK,
    check_budget,
    routing_uncertainty,
    smallest_budget,
)
from tempomask.routing.latency import LatencyBudget, LatencyConfig
from tempomask.routing.options import Routing
from tempomask.routing.plans import RoutedPlan
from tempomask.routing.predictive import MaskHistory, PredictiveRouter


class RecurrentPolicy(Policy):
    """A router with a rule and a budget, following one video.

    A frame without previous masks runs all blocks, as does a sample whose mask or embedding is not
    finite. In a batch every sample is routed by itself.
    """

    recurrent = True
    state_types: ClassVar = {"_history": Resumable, "control": Resumable, "rule": Resumable}

    @property
    def reads_results(self) -> bool:
        """See `models.encoder.Policy`: of an adaptive budget, and of fps on a camera."""
        return self.control.reads_results

    def __init__(self, router: PredictiveRouter, control: BudgetControl, rule: Rule) -> None:
        self.router, self.control, self.rule = router, control, rule
        self._history = MaskHistory(router.config.mask_frames)

    def __repr__(self) -> str:
        return f"RecurrentPolicy({self.control}, {self.rule})"

    def fresh(self) -> RecurrentPolicy:
        return RecurrentPolicy(self.router, self.control.fresh(), self.rule.fresh())

    def begin_frame(self) -> None:
        self.control.begin_frame()

    def end_frame(self, predicted_iou: NDArray[Any], object_scores: NDArray[Any]) -> None:
        self.control.end_frame(predicted_iou.tolist(), object_scores.tolist())

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        """See `models.encoder.Policy`."""
        everything = [True] * self.router.config.num_blocks
        if previous_masks is None:
            self._history.clear()
            return KeepPlan(everything)
        valid, masks = self._history.push(previous_masks)
        logits = self.router(embedding, masks)
        # The one synchronisation of a plan: everything after it is decided on the host.
        host = torch.cat([logits, valid[:, None].to(logits.dtype)], dim=1).cpu()
        # NaN is the answer to an image whose embedding is not finite.
        usable = (host[:, -1] > 0) & host.isfinite().all(dim=1)
        rows = zip(host[:, :-1], usable.tolist(), strict=True)
        keep = [self._choose(row) if used else everything for row, used in rows]
        return KeepPlan(keep[0]) if len(keep) == 1 else RoutedPlan(keep)

    def usual_blocks(self, budget: float) -> list[int]:
        """The blocks that the router's biases ask for, whatever the image: a plan without it."""
        weights = self.router.weights(self.router.head.bias, budget)
        kept = TopK().keep(weights, self.router.config.always_on, budget)
        return [index for index, runs in enumerate(kept) if runs]

    def _choose(self, logits: Tensor) -> list[bool]:
        """The blocks of one sample from its logits (L,)."""
        # Uncertainty is judged at half of the blocks, whatever beta is chosen after it.
        uncertainty = routing_uncertainty(self.router.weights(logits, 0.5).clamp(max=1.0))
        budget = self.control.budget(uncertainty)
        weights = self.router.weights(logits, budget)
        keep = self.rule.keep(weights, self.router.config.always_on, budget)
        self.control.spent(sum(keep) / len(keep))
        return keep


def recurrent_policy(
    router: PredictiveRouter,
    routing: Routing,
    trained_budget: float,
    thresholds: Mapping[str, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> RecurrentPolicy:
    """The policy that a user asked for.

    thresholds: calibrated tau by budget, written with `budget_key`. InputError for a budget that is
    none or smaller than K needs, and for one that has not been calibrated where that is asked for.
    """
    config = router.config
    budget = trained_budget if routing.budget is None else routing.budget
    check_budget(budget, config.num_blocks, config.always_on)
    least = smallest_budget(config.num_blocks, config.always_on)
    control: BudgetControl = FixedBudget(budget)
    if routing.fps is not None:
        waits = routing.count_waiting is not False
        latency = LatencyConfig(routing.fps, least, waits, block=1 / config.num_blocks)
        control = LatencyBudget(latency, clock)
    elif routing.adaptive:
        control = AdaptiveBudget(AdaptiveConfig(budget, least))
    return RecurrentPolicy(router, control, _rule(routing, budget, thresholds or {}))


def budget_key(budget: float) -> str:
    """How a budget is written where thresholds are looked up by it."""
    return f"{budget:.3f}"


def _rule(routing: Routing, budget: float, thresholds: Mapping[str, float]) -> Rule:
    if routing.rule == "top-k":
        return TopK()
    if routing.rule == "stochastic":
        return Stochastic(routing.seed or 0)
    if routing.rule == "threshold":
        return Threshold(THRESHOLD if routing.threshold is None else routing.threshold)
    if budget_key(budget) not in thresholds:
        known = ", ".join(f"{float(key):g}" for key in thresholds) or "none"
        raise InputError(
            f"no threshold is calibrated for budget {budget:g} (calibrated: {known}); run tempomask"
            " calibrate, or use the rule top-k"
        )
    return Threshold(thresholds[budget_key(budget)])
