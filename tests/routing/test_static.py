"""Static plans: what they keep, what they refuse."""

from __future__ import annotations

import pytest
import torch

from tempomask.errors import InputError
from tempomask.models.config import HIERA_SIZES, HieraConfig
from tempomask.models.hiera import Hiera
from tempomask.routing.static import PLAN_A, PLAN_B, StaticPlan


@pytest.fixture(scope="module")
def large() -> Hiera:
    with torch.device("meta"):
        return Hiera(HIERA_SIZES["large"])


@pytest.fixture(scope="module")
def small() -> Hiera:
    return Hiera(HieraConfig(embed_dim=8, stages=(1, 2, 2, 1), global_attention_blocks=()))


@pytest.mark.parametrize("plan", [PLAN_A, PLAN_B], ids="AB")
def test_published_plans_fit_the_large_encoder(large: Hiera, plan: tuple[int, ...]) -> None:
    policy = StaticPlan(plan, large)
    assert sum(policy.keep) == len(plan) == 24 == large.num_blocks // 2
    assert large.required_blocks < set(plan)
    assert policy.plan(torch.zeros(1, 4, 4, 8), None).blocks.sum() == 24


def test_published_plans_differ() -> None:
    assert set(PLAN_A) != set(PLAN_B)


@pytest.mark.parametrize("blocks", [range(6), [5, 4, 3, 1, 0], {0, 1, 3, 5}])
def test_the_plan_runs_exactly_the_given_blocks(small: Hiera, blocks: list[int]) -> None:
    output = small(torch.zeros(1, 3, 64, 64), StaticPlan(blocks, small))
    assert output.blocks.nonzero().flatten().tolist() == sorted(blocks)


def test_a_plan_in_words(small: Hiera) -> None:
    assert repr(StaticPlan({5, 0, 1, 3}, small)) == "StaticPlan([0, 1, 3, 5])"


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([0, 1, 3, 5, 6], r"no blocks \[6\]: the encoder has blocks 0 to 5"),
        ([-1, 1, 3, 5], r"no blocks \[-1\]"),
        ([], r"blocks \[1, 3, 5\] change the feature shape"),
        ([0, 1, 2, 3, 4], r"blocks \[5\] change the feature shape"),
    ],
)
def test_bad_plans_are_refused(small: Hiera, blocks: list[int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        StaticPlan(blocks, small)
