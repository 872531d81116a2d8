"""DyT: the MLP sees the chosen tokens only, the others come through attention and adapter."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tempomask.baselines.dyt import DyT, DyTPlan
from tempomask.baselines.gates import fit_threshold
from tempomask.errors import InputError
from tempomask.models.encoder import Encoder, Policy, RoutedBlock


@pytest.fixture
def policy(encoder: Encoder, images: Tensor) -> DyT:
    torch.manual_seed(2)
    policy = DyT(encoder, 0.5).eval()
    for gate in policy.gates:
        torch.nn.init.normal_(gate.score.weight, std=2.0)
        torch.nn.init.zeros_(gate.score.bias)
    fit_threshold(policy, encoder, images, 0.5)
    return policy


class Watched(Policy):
    """The policy, with its last plan kept."""

    def __init__(self, policy: DyT) -> None:
        self.policy = policy

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> DyTPlan:
        self.last = self.policy.plan(embedding, previous_masks)
        return self.last


def test_the_mlp_computes_the_chosen_tokens_and_no_others(
    encoder: Encoder,
    policy: DyT,
    images: Tensor,
    work_of: Callable[[Encoder], dict[str, list[int]]],
) -> None:
    seen = work_of(encoder)
    with torch.no_grad():
        encoder(images)
        everything = list(seen["tokens"])
        seen["tokens"][:] = [0] * encoder.num_blocks
        watched = Watched(policy)
        assert encoder(images, watched).blocks.all()
    shares = [share.item() for share in watched.last.token_shares]
    assert any(0 < share < 1 for share in shares)
    for count, full, share in zip(seen["tokens"], everything, shares, strict=True):
        assert count == pytest.approx(full * share, abs=0.1)


def test_what_comes_out_equals_masking_the_full_block(encoder: Encoder, policy: DyT) -> None:
    """Token by token, in every block: x + adapter, plus the MLP where the gate says yes."""
    torch.nn.init.normal_(policy.adapters[0].up.weight)
    block = encoder.blocks[0]
    assert isinstance(block, RoutedBlock)
    x = torch.randn(2, 4, 4, block.attention_norm.normalized_shape[0])
    with torch.no_grad():
        attended = block.attend(x)
        scores = policy.gates[0](attended)[..., None]
        policy.threshold.copy_(scores.median())
        yes = scores > policy.threshold
        naive = torch.where(yes, block.feed_forward(attended), attended)
        naive = naive + policy.adapters[0](attended)
        ours = policy.plan(x, None).apply(0, block, x)
    assert yes.any() and not yes.all()
    assert torch.allclose(ours, naive, atol=1e-5)


@pytest.mark.parametrize("sign", [1, -1])
def test_all_or_no_tokens(
    encoder: Encoder,
    policy: DyT,
    images: Tensor,
    sign: int,
    work_of: Callable[[Encoder], dict[str, list[int]]],
) -> None:
    policy.threshold.fill_(-sign * 1e9)
    with torch.no_grad():
        full = encoder(images).features
        seen = work_of(encoder)
        routed = encoder(images, policy).features
    assert all(bool(count) == (sign > 0) for count in seen["tokens"])
    assert sign < 0 or all(torch.allclose(a, b) for a, b in zip(full, routed, strict=True))


def test_gradients_reach_gates_and_adapters(encoder: Encoder, images: Tensor) -> None:
    policy = DyT(encoder, 0.5).train()
    policy.reseed(0)
    features = encoder(images, policy).features
    sum((x * torch.randn_like(x)).sum() for x in features).backward()
    for name, parameter in policy.named_parameters():
        silent_at_first = "adapters" in name and "down" in name  # up starts at zero
        assert silent_at_first or (parameter.grad is not None and parameter.grad.any()), name
    assert len(policy.take_decisions()) == encoder.num_blocks


def test_training_and_use_agree_when_the_gates_are_sure(
    encoder: Encoder, policy: DyT, images: Tensor
) -> None:
    for gate in policy.gates:
        gate.score.weight.data.mul_(1e4)
        gate.score.bias.data.fill_(500.0)
    policy.threshold.zero_()
    with torch.no_grad():
        used = encoder(images, policy).features
        trained = encoder(images, policy.train()).features
    for a, b in zip(used, trained, strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_blocks_that_need_their_whole_map_are_refused(encoder: Encoder) -> None:
    encoder.blocks[1] = RoutedBlock()
    with pytest.raises(InputError, match="DyT needs MLPs that take any tokens"):
        DyT(encoder)
