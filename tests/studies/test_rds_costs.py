"""The cost that is expected of a method is the cost that is counted."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.flops import counting
from studies.rds.costs import PLANS, EncoderCosts
from tempomask.baselines.dyt import DyT
from tempomask.baselines.gates import fit_threshold
from tempomask.baselines.static import static_blocks
from tempomask.models.config import HieraConfig, HybridConfig, MaskDecoderConfig, segmenter_config
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan

ENCODERS = {
    "hybrid": HybridConfig(dim=96, num_heads=3, depth=6),
    "hiera": HieraConfig(
        embed_dim=32,
        num_heads=2,
        stages=(1, 2, 4, 2),
        global_attention_blocks=(5,),
        window_sizes=(4, 4, 2, 2),
    ),
}


@pytest.fixture(params=ENCODERS)
def segmenter(request: pytest.FixtureRequest) -> Segmenter:
    torch.manual_seed(0)
    nano = segmenter_config("nano")
    config = replace(
        nano,
        encoder=ENCODERS[request.param],
        image_size=64,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(nano.memory_attention, layers=1, feedforward_dim=16),
        mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=16, iou_hidden_dim=16),
    )
    return Segmenter(config).eval()


def measured(segmenter: Segmenter, policy: Policy | None) -> int:
    with torch.no_grad(), counting() as counted:
        segmenter.encode(torch.zeros(1, 3, 64, 64), policy)
    return counted.macs.total


@pytest.mark.parametrize("method", PLANS)
def test_static_plans_cost_what_is_expected(segmenter: Segmenter, method: str) -> None:
    costs = EncoderCosts(segmenter)
    budget = costs.budget(method, 0.8)
    assert budget is not None
    plan = StaticPlan(static_blocks(segmenter.encoder, PLANS[method], budget), segmenter.encoder)
    assert measured(segmenter, plan) == pytest.approx(costs.full * costs.share(method, budget))
    assert measured(segmenter, None) == costs.full


def test_dyt_costs_what_is_expected(segmenter: Segmenter) -> None:
    costs = EncoderCosts(segmenter)
    smallest = costs.share("dyt", 0.01)
    share = (1 + smallest) / 2
    budget = costs.budget("dyt", share)
    assert budget is not None and 0 < budget < 1
    assert costs.budget("dyt", smallest - 0.01) is None
    policy = DyT(segmenter.encoder, budget).eval()
    for gate in policy.gates:
        torch.nn.init.normal_(gate.score.weight)  # type: ignore[union-attr,arg-type]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    fit_threshold(policy, segmenter.encoder, images, budget, rounds=8)
    with torch.no_grad(), counting() as counted:
        for image in images:
            segmenter.encode(image[None], policy)
    assert counted.macs.total / 2 / costs.full == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("method", ["rds", "pbd", "adavit", "slim"])
def test_costs_grow_with_budgets_and_budgets_are_found_again(
    segmenter: Segmenter, method: str
) -> None:
    costs = EncoderCosts(segmenter)
    assert costs.share(method, 1.0) == pytest.approx(1.0)
    assert costs.share(method, 0.4) < costs.share(method, 0.8) < 1
    for budget in (0.8, 1.0):
        found = costs.budget(method, costs.share(method, budget))
        assert found == pytest.approx(budget, abs=0.1)
    assert costs.budget(method, 0.01) is None
