"""An adaptive budget: hard frames get more blocks, easy ones fewer, and the mean stays on target.

RDS names its fixed beta as a limit; this is our answer. A frame is hard when the router is unsure
of it, and when the tracker was unsure of the last one (predicted IoU, object score), compared with
the video so far. What easy frames save goes into a reserve, which hard frames spend.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tempomask.ops.resumable import agree
from tempomask.routing.budget import BudgetControl

# How fast mean and spread of the difficulty follow the video, a frame; about its last 30 frames.
MEMORY = 1 / 30
# Frames that set the scale before the budget moves.
SETTLING = 3
# Difficulties spread less than this (they lie in [0, 2]) are no reason to depart from the target.
LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class AdaptiveConfig:
    """target: mean share of blocks. least: the share that K takes.

    swing: how far a frame of unusual difficulty departs from the target. reserve: blocks, as a
    share of the encoder's, that may be saved up or overdrawn in all, so that after T frames the
    mean lies within reserve / T of the target (but for the rounding of a frame's block count). Only
    frames that the router chooses for are booked, not those that run all blocks without it.
    """

    target: float
    least: float
    swing: float = 0.2
    reserve: float = 1.5


class AdaptiveBudget(BudgetControl):
    """A beta for every frame of one video."""

    state_types: ClassVar = {
        **dict.fromkeys(("_saved", "_tracker_doubt", "_mean", "_variance"), float),
        "_frames": int,
    }

    def __init__(self, config: AdaptiveConfig) -> None:
        self.config = config
        self._saved = 0.0
        self._tracker_doubt = 0.0
        self._mean, self._variance, self._frames = 0.0, 0.0, 0

    def check_state(self) -> None:
        numbers = (self._saved, self._tracker_doubt, self._mean, self._variance)
        agree(all(map(math.isfinite, numbers)) and min(self._variance, self._frames) >= 0, "budget")

    @property
    def reads_results(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"AdaptiveBudget({self.config})"

    def fresh(self) -> AdaptiveBudget:
        return AdaptiveBudget(self.config)

    def end_frame(self, predicted_iou: Sequence[float], object_scores: Sequence[float]) -> None:
        """The tracker's doubt about its worst object: 1 - IoU, and presence near a half."""
        doubts = [
            0.5 * (1 - iou) + 0.5 * (1 - abs(math.tanh(score / 2)))
            for iou, score in zip(predicted_iou, object_scores, strict=True)
            if math.isfinite(iou) and math.isfinite(score)
        ]
        self._tracker_doubt = max(doubts, default=0.0)

    def budget(self, uncertainty: float) -> float:
        config = self.config
        difficulty = uncertainty + self._tracker_doubt
        wanted = config.target + config.swing * math.tanh(self._unusual(difficulty))
        # Within reach of the reserve: overdrawn at most by it, and never saving more than it.
        most = config.target + self._saved + config.reserve
        least = config.target + self._saved - config.reserve
        # Half of what is saved or owed is always on its way back to the target.
        wanted += 0.5 * self._saved / max(config.reserve, 1e-6) * config.swing
        return min(max(wanted, least, config.least), most, 1.0)

    def spent(self, share: float) -> None:
        self._saved += self.config.target - share

    def _unusual(self, difficulty: float) -> float:
        """How many standard deviations a frame is harder than the video so far."""
        self._frames += 1
        rate = max(MEMORY, 1 / self._frames)
        departure = difficulty - self._mean
        spread = max(math.sqrt(self._variance), LEAST_SPREAD)
        unusual = departure / spread if self._frames > SETTLING else 0.0
        self._mean += rate * departure
        self._variance = (1 - rate) * (self._variance + rate * departure**2)
        return unusual
