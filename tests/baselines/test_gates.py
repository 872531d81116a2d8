"""Gates: draws follow the probability, gradients the soft decision, thresholds reach a share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tempomask.baselines.adavit import AdaViT
from tempomask.baselines.dyt import DyT
from tempomask.baselines.gates import Gate, GatedPolicy, fit_threshold, gumbel_sigmoid
from tempomask.errors import InputError
from tempomask.models.config import HybridConfig
from tempomask.models.encoder import Encoder, KeepPlan, Plan
from tempomask.models.hybrid import HybridEncoder


@given(st.floats(-4, 4))
@settings(max_examples=15, deadline=None)
def test_draws_follow_the_sigmoid(logit: float) -> None:
    logits = torch.full((40_000,), logit)
    drawn = gumbel_sigmoid(logits, torch.Generator().manual_seed(0))
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert drawn.mean().item() == pytest.approx(torch.sigmoid(torch.tensor(logit)).item(), abs=0.02)


def test_policies_in_words(encoder: Encoder) -> None:
    policy = AdaViT(encoder, 0.7)
    policy.threshold.fill_(-0.25)
    assert repr(policy) == "AdaViT(budget=0.7, threshold=-0.25)"
    assert repr(DyT(encoder, 0.3)) == "DyT(keep_ratio=0.3, threshold=0)"


def test_more_logit_never_lowers_a_decision() -> None:
    logits = torch.linspace(-3, 3, 50, requires_grad=True)
    gumbel_sigmoid(logits).sum().backward()
    assert logits.grad is not None and (logits.grad > 0).all()


@pytest.mark.parametrize(("start", "probability"), [(0.3, 0.3), (0.0, 0.05), (1.0, 0.95)])
def test_gates_start_where_told(start: float, probability: float) -> None:
    gate = Gate(16, start)
    tokens = torch.randn(500, 16) * 100
    assert gate(tokens).sigmoid().mean().item() == pytest.approx(probability, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("kind", [AdaViT, DyT])
def test_thresholds_reach_the_share(
    encoder: Encoder, images: Tensor, kind: type[AdaViT | DyT], share: float
) -> None:
    torch.manual_seed(5)
    policy = kind(encoder).train()
    for parameter in policy.gates.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    reached = fit_threshold(policy, encoder, images, share)
    # AdaViT on a tiny encoder decides nine times or so.
    assert reached == pytest.approx(share, abs=0.17 if kind is AdaViT else 0.02)
    assert policy.training and policy.take_decisions() == []
    policy.eval()
    with policy.observing() as seen, torch.no_grad():
        for image in images:
            encoder(image[None], policy)
    # Every block counts alike, however many tokens it has.
    again = np.mean([(logits > policy.threshold).float().mean().item() for logits in seen])
    assert again == pytest.approx(reached)


def test_a_fit_that_fails_leaves_the_mode(encoder: Encoder, images: Tensor) -> None:
    policy = DyT(encoder).train()
    with pytest.raises(RuntimeError):
        fit_threshold(policy, encoder, images[:, :1], 0.5)
    assert policy.training


def test_blocks_of_few_tokens_count_as_much_as_those_of_many() -> None:
    """Ninety tokens that want less than all ten of another block."""

    class Scripted(GatedPolicy):
        def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
            self.decide(0, torch.linspace(-2, -1, 90))
            self.decide(1, torch.linspace(1, 2, 10))
            return KeepPlan([True] * 6)

    policy = Scripted()
    encoder = HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=6))
    for share, yes in ((0.5, [0, 10]), (0.25, [0, 5]), (0.75, [45, 10])):
        assert fit_threshold(policy, encoder, torch.zeros(1, 3, 32, 32), share) == share
        with policy.observing() as seen:
            policy.plan(torch.zeros(1), None)
        assert [int((logits > policy.threshold).sum()) for logits in seen] == yes


def test_a_share_beyond_one_is_refused(encoder: Encoder, images: Tensor) -> None:
    with pytest.raises(InputError, match=r"got 1\.5"):
        fit_threshold(DyT(encoder), encoder, images, 1.5)
