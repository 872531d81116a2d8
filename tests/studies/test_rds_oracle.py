"""The oracle: many plans at once are what each is alone, and the search finds what is planted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.rds.oracle import PlanScores, crossed_halves, search
from studies.rds.plan_tracking import Blocks, PlanTracker
from tempomask.metrics.region_boundary import region_and_boundary
from tempomask.models.config import HybridConfig, MaskDecoderConfig, segmenter_config
from tempomask.models.encoder import KeepPlan
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan
from tempomask.training.validation import SquareVideo, track_sequence

SIDE, FRAMES, BLOCKS = 64, 5, 5


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    nano = segmenter_config("nano")
    config = replace(
        nano,
        encoder=HybridConfig(dim=32, num_heads=2, depth=BLOCKS),
        image_size=SIDE,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(nano.memory_attention, layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=32, iou_hidden_dim=16),
    )
    return Segmenter(config).eval()


@pytest.fixture
def video() -> SquareVideo:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(0, 256, (FRAMES, SIDE, SIDE, 3), generator=generator).to(torch.uint8)
    masks = torch.zeros(FRAMES, SIDE, SIDE, dtype=torch.bool)
    for index in range(FRAMES):
        masks[index, 10:40, 8 + 4 * index : 36 + 4 * index] = True
    return SquareVideo(frames, masks)


class FirstWhole(StaticPlan):
    """A static plan after a first frame that runs everything."""

    def plan(self, embedding: torch.Tensor, previous_masks: torch.Tensor | None) -> KeepPlan:
        if previous_masks is None:
            return KeepPlan([True] * BLOCKS)
        return super().plan(embedding, previous_masks)


def test_many_plans_at_once_are_what_each_is_alone(
    segmenter: Segmenter, video: SquareVideo
) -> None:
    plans: list[Blocks] = [(0, 1, 2, 3, 4), (0, 4), (0, 2, 4), (0, 1, 4), (0, 2, 3, 4)]
    tracker = PlanTracker(segmenter, video)
    states, found = tracker.follow(tracker.begin(), plans, FRAMES - 1)
    assert found.shape == (5, FRAMES - 1)
    for plan, row in zip(plans, found, strict=True):
        policy = FirstWhole(plan, segmenter.encoder)
        masks = track_sequence(segmenter, video.frames, video.masks[0].float(), policy).numpy()
        region, boundary = region_and_boundary(masks, video.masks[1:].numpy())
        assert row == pytest.approx((region + boundary) / 2, abs=2e-2)
    # Going on from the state of one plan is following it from the start.
    halfway, first = tracker.follow(tracker.begin(), plans[:3], 2)
    _, rest = tracker.follow(halfway.only(1), plans[1:2], 2)
    assert np.concatenate([first[1], rest[0]]) == pytest.approx(found[1], abs=2e-2)
    assert states.last == FRAMES - 1


def test_scores_are_computed_once(segmenter: Segmenter, video: SquareVideo, tmp_path: Path) -> None:
    scores = PlanScores(segmenter, {"one": video}, tmp_path, reduced=False)
    first = scores.of("one", [(0, 4), (0, 1, 4)])
    again = PlanScores(segmenter, {"one": video}, tmp_path, reduced=False)
    again.trackers = {}
    assert np.array_equal(again.of("one", [(0, 1, 4), (0, 4)]), first[::-1])
    assert again.known("one", 2) == [(0, 4)]


def test_the_search_leaves_out_what_costs_least() -> None:
    cost = np.array([9.0, 1.0, 5.0, 2.0, 4.0, 9.0])
    asked: list[Blocks] = []

    def score(plans: list[Blocks]) -> np.ndarray:
        asked.extend(plans)
        return np.array([sum(cost[list(plan)]) for plan in plans])

    found = search(score, 6, [0, 5], 2, beam=1)  # type: ignore[arg-type]
    best = {size: plans[0] for size, plans in found.items()}
    assert best[4] == (0, 2, 4, 5) and best[3] == (0, 2, 5) and best[2] == (0, 5)
    assert len(asked) == 4 + 3 + 2 + 1
    assert all({0, 5} <= set(plan) for plan in asked)


def test_a_plan_that_is_lucky_on_one_half_gains_nothing_on_the_other() -> None:
    lucky = np.array([[9.0, 9.0, 1.0, 1.0], [1.0, 1.0, 9.0, 9.0], [5.0, 5.0, 5.0, 5.0]])
    assert crossed_halves(lucky) == 1.0
    steady = np.array([[8.0, 8.0, 8.0, 8.0], [5.0, 5.0, 5.0, 5.0]])
    assert crossed_halves(steady) == 8.0
