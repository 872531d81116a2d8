"""Calibrating the threshold tau of a router on given videos, so that it holds a budget on average.

The weights that the router gives depend on the masks, and these on the blocks that ran. So weights
are gathered while tracking with the rule at hand: first with top-k, which holds the budget, then
with the threshold found, until the share of blocks that it runs agrees.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from tempomask.adaptation.adapter_file import change_settings, read_adapter
from tempomask.data.davis import Davis
from tempomask.data.sequences import MaskSequence
from tempomask.errors import InputError
from tempomask.evaluation.prompts import first_frame_prompts
from tempomask.model import Model
from tempomask.routing.budget import (
    FixedBudget,
    RecordedRule,
    Rule,
    Threshold,
    TopK,
    calibrate_threshold,
)
from tempomask.routing.options import Routing
from tempomask.routing.recurrent import RecurrentPolicy, budget_key

# Rounds of tracking; the first uses top-k. The best threshold of all rounds is kept.
ROUNDS = 3
# Shares of blocks that agree this well need no further round.
CLOSE = 0.005
# A share farther than this from the budget is worth a warning.
HELD = 0.02


@dataclass(frozen=True)
class Calibration:
    """The threshold tau for a budget, and the mean share of blocks that ran with it on frames."""

    budget: float
    threshold: float
    share: float
    frames: int

    @property
    def held(self) -> bool:
        """Whether the share is the budget, to two points."""
        return abs(self.share - self.budget) <= HELD


def calibrate(
    model: Model,
    dataset: Davis,
    budget: float,
    max_frames: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> Calibration:
    """The tau with which the model's router runs `budget` of the blocks on these sequences.

    Frames that run all blocks for lack of a previous mask are left out of the share.

    Args:
        model: With a recurrent router.
        dataset: Its sequences are tracked from their first annotations.
        budget: Share of the blocks.
        max_frames: Of each sequence that are tracked, None for all.
        progress: Told what is being tracked.

    Raises:
        InputError: There is no recurrent router, the budget is none or too small, or a sequence has
            no objects on its first frame.
    """
    policy = calibrated_policy(model, budget)
    always_on = policy.router.config.always_on
    rule: Rule = TopK()
    best: Calibration | None = None
    for turn in range(1, ROUNDS + 1):
        recorded = RecordedRule(rule)
        recording = RecurrentPolicy(policy.router, FixedBudget(budget), recorded)
        for sequence in dataset:
            if progress is not None:
                progress(f"{sequence.name}, round {turn} of at most {ROUNDS}")
            _track(model, sequence, recording, max_frames)
        if not recorded.weights:
            raise InputError("the sequences have no frame after the first to calibrate on")
        if isinstance(rule, Threshold):
            share = float(np.mean(recorded.kept))
            found = Calibration(budget, rule.tau, share, len(recorded.kept))
            if best is None or abs(share - budget) < abs(best.share - budget):
                best = found
            if turn == ROUNDS or abs(share - budget) < CLOSE:
                break
        rule = Threshold(calibrate_threshold(torch.stack(recorded.weights), always_on, budget))
    assert best is not None, "the second round has a threshold"
    return best


def calibrated_policy(model: Model, budget: float) -> RecurrentPolicy:
    """The policy whose threshold is sought; InputError as in `calibrate`."""
    policy = model.policy(Routing(budget))
    if not isinstance(policy, RecurrentPolicy):
        raise InputError("only a router of RDS can be calibrated; load the model with its adapter")
    return policy


def _track(
    model: Model, sequence: MaskSequence, policy: RecurrentPolicy, max_frames: int | None
) -> None:
    """Track a sequence from its first annotation; the policy's rule takes notes."""
    session = model.session(num_frames=len(sequence), routing=policy)
    for prompt in first_frame_prompts(sequence.label_map(0), sequence.object_ids, "mask", 0):
        session.add(prompt)
    for frame in islice(sequence.frames(), max_frames):
        session.step(frame)


def store(calibration: Calibration, folder: str | Path) -> None:
    """Keep a threshold in an adapter's folder, where the rule "calibrated" finds it."""
    known = dict(read_adapter(folder).export.settings.get("thresholds", {}))
    known[budget_key(calibration.budget)] = calibration.threshold
    change_settings(folder, {"thresholds": dict(sorted(known.items()))})
