"""AdaViT: decides before every block, skips really, and its routers learn."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tempomask.baselines.adavit import AdaViT
from tempomask.baselines.gates import Gate
from tempomask.models.encoder import Encoder
from tempomask.routing.static import StaticPlan


def scripted(encoder: Encoder, answers: dict[int, float]) -> AdaViT:
    """Gates that say the same whatever they see: block -> logit."""
    policy = AdaViT(encoder).eval()
    for name, gate in policy.gates.items():
        torch.nn.init.zeros_(gate.score.weight)
        torch.nn.init.constant_(gate.score.bias, answers.get(int(name), 1.0))
    return policy


def test_gates_stand_before_every_block_that_may_go(encoder: Encoder) -> None:
    policy = AdaViT(encoder)
    assert {int(name) for name in policy.gates} == set(range(encoder.num_blocks)) - {
        0,
        *encoder.required_blocks,
    }


def test_a_gate_takes_the_mean_of_the_tokens_itself(encoder: Encoder, images: Tensor) -> None:
    """So that its time and cost hold all of the routing."""
    policy = AdaViT(encoder).eval()
    seen: list[tuple[Tensor, Tensor]] = []
    for gate in policy.gates.values():
        gate.register_forward_hook(lambda _, inputs, logits: seen.append((inputs[0], logits)))
    with torch.no_grad():
        encoder(images, policy)
    assert len(seen) == len(policy.gates)
    assert all(tokens.ndim == 4 and logits.shape == (3,) for tokens, logits in seen)
    gate = next(iter(policy.gates.values()))
    alone = Gate(gate.score.in_features, 0.5)
    alone.load_state_dict(gate.state_dict())
    assert torch.equal(alone(seen[0][0].mean(dim=(1, 2))), seen[0][1])


@pytest.mark.parametrize("budget", [0.5, 0.8, 1.0])
def test_gates_start_at_the_budget(encoder: Encoder, budget: float) -> None:
    policy = AdaViT(encoder, budget)
    always = len(policy.always)
    expected = always + policy.share_of_gates(budget) * (encoder.num_blocks - always)
    assert expected == pytest.approx(max(budget * encoder.num_blocks, always))


def test_skipped_blocks_are_not_computed(
    encoder: Encoder, images: Tensor, work_of: Callable[[Encoder], dict[str, list[int]]]
) -> None:
    index = encoder.num_blocks - 2 if encoder.num_blocks - 2 not in encoder.required_blocks else 4
    policy = scripted(encoder, {index: -1.0})
    others = StaticPlan([i for i in range(encoder.num_blocks) if i != index], encoder)
    with torch.no_grad():
        expected = encoder(images, others)
        seen = work_of(encoder)
        output = encoder(images, policy)
    assert output.blocks.tolist() == [[i != index for i in range(encoder.num_blocks)]] * 3
    assert seen["tokens"][index] == seen["samples"][index] == 0
    assert all(count for i, count in enumerate(seen["tokens"]) if i != index)
    assert all(torch.equal(a, b) for a, b in zip(output.features, expected.features, strict=True))


def test_samples_decide_by_themselves(
    encoder: Encoder, images: Tensor, work_of: Callable[[Encoder], dict[str, list[int]]]
) -> None:
    torch.manual_seed(3)
    policy = AdaViT(encoder).eval()
    for gate in policy.gates.values():
        torch.nn.init.normal_(gate.score.weight, std=5.0)
        torch.nn.init.zeros_(gate.score.bias)
    with torch.no_grad():
        # The first gate splits the batch: its bias is put between what it says of the samples.
        first = next(iter(policy.gates.values()))
        with policy.observing() as logits:
            encoder(images, policy)
        first.score.bias.fill_(-logits[0].sort().values[1:].mean())
        seen = work_of(encoder)
        together = encoder(images, policy)
        samples = list(seen["samples"])
        alone = [encoder(image[None], policy) for image in images]
    assert together.blocks.shape == (3, encoder.num_blocks)
    assert len({tuple(row.tolist()) for row in together.blocks}) > 1
    assert samples == together.blocks.sum(dim=0).tolist()
    for row, single in enumerate(alone):
        assert torch.equal(together.blocks[row], single.blocks[0])
        for a, b in zip(together.features, single.features, strict=True):
            assert torch.allclose(a[row], b[0], atol=1e-5)


def test_the_threshold_moves_decisions(encoder: Encoder, images: Tensor) -> None:
    policy = scripted(encoder, {})
    gated = len(policy.gates)
    with torch.no_grad():
        assert encoder(images, policy).blocks.all()
        policy.threshold.fill_(2.0)
        assert int((~encoder(images, policy).blocks).sum()) == gated * len(images)


def test_gradients_reach_every_router_also_through_skipped_blocks(
    encoder: Encoder, images: Tensor
) -> None:
    policy = AdaViT(encoder, 0.5).train()
    policy.reseed(4)
    output = encoder(images, policy)
    assert not output.blocks.all(), "some block is skipped"
    sum((x * torch.randn_like(x)).sum() for x in output.features).backward()
    for name, gate in policy.gates.items():
        assert gate.score.weight.grad is not None and gate.score.weight.grad.any(), name


def test_training_draws_follow_the_seed(encoder: Encoder, images: Tensor) -> None:
    policy = AdaViT(encoder, 0.5).train()

    def drawn(seed: int) -> list[list[bool]]:
        policy.reseed(seed)
        return encoder(images, policy).blocks.tolist()

    assert drawn(1) == drawn(1)
    assert len(policy.take_decisions()) == 2 * len(policy.gates)
    assert any(drawn(seed) != drawn(1) for seed in range(2, 6))
    assert policy.take_decisions()
    assert policy.take_decisions() == []


def test_training_and_use_agree_when_the_routers_are_sure(encoder: Encoder, images: Tensor) -> None:
    answers = {i: -60.0 if i % 2 else 60.0 for i in range(encoder.num_blocks)}
    policy = scripted(encoder, answers)
    with torch.no_grad():
        used = encoder(images, policy)
        trained = encoder(images, policy.train())
    assert torch.equal(used.blocks, trained.blocks)
    for a, b in zip(used.features, trained.features, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
