"""The policy of RDS in use: what may be asked, what is refused, one synchronisation a plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.encoder import KeepPlan
from tempomask.routing.adaptive import AdaptiveBudget
from tempomask.routing.budget import RecordedRule, Stochastic, Threshold, TopK
from tempomask.routing.latency import LatencyBudget
from tempomask.routing.options import Routing
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy, budget_key, recurrent_policy

CONFIG = RouterConfig(num_blocks=10, channels=8, mask_stride=4, always_on=(0, 9))


@pytest.fixture(scope="module")
def router() -> PredictiveRouter:
    torch.manual_seed(0)
    router = PredictiveRouter(CONFIG).eval()
    with torch.no_grad():
        router.head.weight.mul_(10)
    return router.requires_grad_(False)


def frame(seed: int = 0, batch: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 8, 8, 8, generator=generator),
        torch.randn(batch, 1, 16, 16, generator=generator),
    )


@pytest.mark.parametrize("budget", [0.2, 0.35, 0.6, 1.0])
def test_the_budget_is_held_on_every_frame(router: PredictiveRouter, budget: float) -> None:
    policy = recurrent_policy(router, Routing(budget), trained_budget=0.6)
    chosen = [policy.plan(*frame(seed)).blocks for seed in range(6)]
    assert all(blocks.sum() == int(10 * budget + 1e-6) for blocks in chosen)
    assert all(blocks[0] and blocks[9] for blocks in chosen)
    if budget in (0.35, 0.6):
        assert len({tuple(blocks.tolist()) for blocks in chosen}) > 1, "frames differ"


def test_the_trained_budget_is_the_default(router: PredictiveRouter) -> None:
    plan = recurrent_policy(router, Routing(), trained_budget=0.4).plan(*frame())
    assert plan.blocks.sum() == 4


def test_without_a_previous_mask_everything_runs(router: PredictiveRouter) -> None:
    policy = recurrent_policy(router, Routing(0.3), 0.6)
    assert policy.plan(frame()[0], None).blocks.all()
    broken = frame()[1]
    broken[0, 0, 0, 0] = float("inf")
    assert policy.plan(frame()[0], broken).blocks.all()
    assert not policy.plan(*frame()).blocks.all()


def test_a_broken_mask_or_image_costs_one_frame() -> None:
    torch.manual_seed(0)
    router = PredictiveRouter(replace(CONFIG, mask_frames=4)).eval().requires_grad_(False)
    policy = recurrent_policy(router, Routing(0.5, adaptive=True), 0.6)
    embedding, masks = frame()
    nothing = torch.full_like(masks, float("nan"))
    ran = [policy.plan(embedding, mask).blocks.sum().item() for mask in (nothing, masks, masks)]
    assert ran[0] == 10 and max(ran[1:]) < 10
    ran = [policy.plan(x, masks).blocks.sum().item() for x in (embedding * float("nan"), embedding)]
    assert ran[0] == 10 and ran[1] < 10
    assert policy.control.budget(0.5) < 1


def test_samples_of_a_batch_are_routed_alone(router: PredictiveRouter) -> None:
    policy = recurrent_policy(router, Routing(0.5), 0.6)
    embedding, masks = frame(3, batch=4)
    together = policy.plan(embedding, masks).blocks
    for index in range(4):
        alone = policy.plan(embedding[index : index + 1], masks[index : index + 1])
        assert isinstance(alone, KeepPlan)
        assert torch.equal(alone.blocks, together[index])


@pytest.mark.parametrize(
    ("routing", "control", "rule"),
    [
        (Routing(0.5, "threshold"), None, Threshold(0.5)),
        (Routing(0.5, "threshold", threshold=0.7), None, Threshold(0.7)),
        (Routing(0.5, "calibrated"), None, Threshold(0.44)),
        (Routing(0.5, "stochastic", seed=4), None, Stochastic),
        (Routing(0.5, adaptive=True), AdaptiveBudget, TopK()),
        (Routing(fps=25), LatencyBudget, TopK()),
    ],
    ids=["threshold", "own threshold", "calibrated", "stochastic", "adaptive", "fps"],
)
def test_wishes(router: PredictiveRouter, routing: Routing, control: Any, rule: Any) -> None:
    policy = recurrent_policy(router, routing, 0.6, {budget_key(0.5): 0.44})
    assert control is None or isinstance(policy.control, control)
    assert policy.rule == rule or isinstance(policy.rule, Stochastic)
    assert policy.plan(*frame()).blocks[[0, 9]].all()


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        (Routing(0.5), "RecurrentPolicy(FixedBudget(share=0.5), TopK())"),
        (
            Routing(rule="stochastic", seed=4),
            "RecurrentPolicy(FixedBudget(share=0.6), Stochastic(seed=4))",
        ),
        (
            Routing(0.5, adaptive=True),
            "RecurrentPolicy(AdaptiveBudget(AdaptiveConfig(target=0.5, least=0.2, swing=0.2,"
            " reserve=1.5)), TopK())",
        ),
        (
            Routing(0.5, "threshold", threshold=0.7),
            "RecurrentPolicy(FixedBudget(share=0.5), Threshold(tau=0.7))",
        ),
        (
            Routing(fps=25),
            "RecurrentPolicy(LatencyBudget(LatencyConfig(fps=25, least=0.2, count_waiting=True,"
            " block=0.1, gain=0.35, memory=0.15)), TopK())",
        ),
    ],
    ids=["fixed", "stochastic", "adaptive", "threshold", "fps"],
)
def test_a_policy_in_words(router: PredictiveRouter, routing: Routing, words: str) -> None:
    policy = recurrent_policy(router, routing, 0.6)
    assert repr(policy) == repr(policy.fresh()) == words
    recorded = RecurrentPolicy(router, policy.control, RecordedRule(policy.rule))
    assert repr(recorded).endswith(f", RecordedRule({policy.rule}))")


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"budget": 1.5}, "budget 1.5 must be more than 0 and at most 1"),
        ({"budget": 0.1}, r"2 of the 10 blocks always run; the smallest budget is 0\.2"),
        ({"rule": "best"}, "rule must be top-k, .* got 'best'"),
        ({"rule": "threshold", "threshold": 1.5}, "threshold must lie"),
        ({"rule": "threshold", "threshold": float("nan")}, "threshold must lie"),
        ({"threshold": 0.4}, "a threshold is for the rule threshold, not for top-k; leave it out"),
        ({"rule": "threshold", "seed": 0}, "a seed is for the rule stochastic, not for threshold"),
        ({"fps": 25, "budget": 0.5}, "fps chooses the budget itself"),
        ({"fps": 25, "adaptive": True}, "fps chooses the budget itself"),
        ({"fps": 0}, "fps must be"),
        ({"adaptive": True, "rule": "calibrated"}, "holds for one budget"),
        ({"adaptive": True, "rule": "threshold"}, "the rule threshold does not hold a budget"),
        ({"adaptive": True, "rule": "stochastic"}, "the rule stochastic does not hold a budget"),
        ({"budget": 0.6, "rule": "calibrated"}, r"budget 0.6 \(calibrated: 0.5\)"),
    ],
)
def test_bad_wishes_are_refused(
    router: PredictiveRouter, wish: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        recurrent_policy(router, Routing(**wish), 0.6, {budget_key(0.5): 0.44})


def test_a_fresh_policy_shares_the_router_and_no_state(router: PredictiveRouter) -> None:
    policy = recurrent_policy(router, Routing(0.5, "stochastic", seed=1), 0.6)
    first = [policy.plan(*frame(seed)).blocks for seed in range(8)]
    fresh = policy.fresh()
    assert fresh.router is policy.router
    again = [fresh.plan(*frame(seed)).blocks for seed in range(8)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_results_of_a_frame_reach_the_budget(router: PredictiveRouter) -> None:
    policy = recurrent_policy(router, Routing(0.5, adaptive=True), 0.6)
    shares = []
    for index in range(30):
        policy.begin_frame()
        shares.append(policy.plan(*frame(0)).blocks.double().mean().item())
        iou = 0.95 if index < 25 else 0.1
        policy.end_frame(np.array([iou, 0.9]), np.array([6.0, 6.0]))
    assert max(shares[27:]) > max(shares[5:25])


class OnDevice(torch.Tensor):
    """A tensor as on a GPU: whatever brings its values to the host is counted or forbidden."""

    transfers = 0

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name == "cpu":
            cls.transfers += 1
            return args[0].as_subclass(torch.Tensor)
        if name in ("item", "tolist", "numpy", "__bool__", "__int__", "__float__", "nonzero"):
            raise AssertionError(f"{name} synchronises")
        return super().__torch_function__(func, types, args, kwargs or {})


@pytest.mark.parametrize("wish", [{"budget": 0.5}, {"budget": 0.5, "adaptive": True}, {"fps": 9}])
def test_one_synchronisation_a_plan(router: PredictiveRouter, wish: dict[str, Any]) -> None:
    policy = recurrent_policy(router, Routing(**wish), 0.6)
    for seed in range(4):
        OnDevice.transfers = 0
        embedding, masks = (x.as_subclass(OnDevice) for x in frame(seed))
        blocks = policy.plan(embedding, masks).blocks
        assert OnDevice.transfers == 1
        assert not isinstance(blocks, OnDevice), "which blocks ran is known on the host"


@pytest.mark.parametrize(
    ("wish", "waits"),
    [
        (Routing(0.5), False),
        (Routing(0.5, adaptive=True), True),
        (Routing(fps=9), False),
        (Routing(fps=9, count_waiting=False), True),
    ],
    ids=["fixed", "adaptive", "fps of a file", "fps of a camera"],
)
def test_some_budgets_wait_for_the_results_as_well(
    router: PredictiveRouter, wish: Routing, waits: bool
) -> None:
    assert recurrent_policy(router, wish, 0.6).reads_results == waits


def test_the_policy_is_what_the_router_says(router: PredictiveRouter) -> None:
    embedding, masks = frame(5)
    policy = RecurrentPolicy(router, recurrent_policy(router, Routing(0.5), 0.6).control, TopK())
    logits = router(embedding, masks)[0].tolist()
    best = sorted(range(1, 9), key=lambda i: -logits[i])[:3]
    assert policy.plan(embedding, masks).blocks.nonzero().flatten().tolist() == sorted(
        [0, 9, *best]
    )
