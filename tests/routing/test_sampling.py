"""The router in training: it runs what is run in use, and learns from every block."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tempomask.models.config import HieraConfig, HybridConfig
from tempomask.models.encoder import RoutedBlock
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder
from tempomask.routing.budget import FixedBudget, Threshold, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.routing.sampling import SamplingPolicy
from tempomask.routing.static import StaticPlan

CONFIG = RouterConfig(num_blocks=6, channels=8, mask_stride=4, always_on=(0, 5))


class Direction(RoutedBlock):
    """Adds 1 to one channel."""

    def __init__(self, channel: int) -> None:
        super().__init__()
        self.channel = channel

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.one_hot(torch.tensor(self.channel), x.shape[-1])


def make_router(config: RouterConfig = CONFIG) -> PredictiveRouter:
    """Weights large enough for every input to matter."""
    torch.manual_seed(0)
    router = PredictiveRouter(config)
    with torch.no_grad():
        router.head.weight.mul_(10)
    return router


def embedding(batch: int = 2, side: int = 8) -> Tensor:
    return torch.randn(batch, side, side, 8, generator=torch.Generator().manual_seed(batch))


def masks(batch: int = 2) -> Tensor:
    return torch.randn(batch, 1, 16, 16, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("budget", [0.3, 0.45, 0.6, 0.9])
@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_training_runs_the_load_of_use(budget: float, temperature: float) -> None:
    """Every draw has the blocks of top-k in use, however sure the router is."""
    config = RouterConfig(14, 8, 4, (0, 13))
    torch.manual_seed(0)
    router = PredictiveRouter(config)
    with torch.no_grad():
        router.head.bias.copy_(torch.linspace(3, -3, 14))
    policy = SamplingPolicy(router, budget)
    policy.temperature = temperature
    policy.reseed(0)
    used = RecurrentPolicy(router, FixedBudget(budget), TopK()).plan(embedding(), masks()).blocks
    for _ in range(20):
        drawn = policy.plan(embedding(), masks()).blocks
        assert drawn.sum(dim=1).tolist() == used.sum(dim=1).tolist()
        assert (drawn.sum(dim=1) - 14 * budget).abs().max() <= 0.5 + 1e-6
    assert policy.loads == [policy.load_in_use] * 20


def test_the_load_stays_while_the_router_trains() -> None:
    """A loss that wants every block to run: K must not give up its share for others."""
    router = make_router()
    policy = SamplingPolicy(router, 0.6)  # 4 of 6 blocks
    optimizer = torch.optim.Adam(router.parameters(), lr=3e-3)
    policy.reseed(0)
    blocks = [Direction(index) for index in range(6)]
    loads = []
    for _ in range(60):
        plan = policy.plan(embedding(4), masks(4))
        x = torch.zeros(4, 1, 1, 6)
        for index, block in enumerate(blocks):
            x = plan.apply(index, block, x)
        optimizer.zero_grad()
        (-x).sum().backward()
        optimizer.step()
        loads.append(plan.blocks.sum(dim=1).double().mean().item())
    assert sum(loads) / len(loads) == pytest.approx(0.6 * 6, abs=0.5)
    assert loads[-1] == pytest.approx(0.6 * 6, abs=0.5)


def test_the_papers_draws_can_be_had() -> None:
    config = RouterConfig(6, 8, 4, (0, 5), weights="paper")
    router = make_router(config)
    policy = SamplingPolicy(router, 0.5, "bernoulli", skipped_gradient=False)
    x, m = embedding(1), masks(1)
    p = router(x, m).sigmoid()
    w = (0.5 * 6 * p / p.sum()).clamp(max=1)[0]
    policy.reseed(3)
    drawn = torch.stack([policy.plan(x, m).blocks for _ in range(1500)])[:, 0]
    assert drawn[:, [0, 5]].all()
    rates = drawn.double().mean(dim=0)[1:5]
    assert rates.tolist() == pytest.approx(w[1:5].tolist(), abs=0.05)
    assert len(set(drawn.sum(dim=1).tolist())) > 1, "the number of blocks varies"


def test_a_router_learns_to_follow_the_mask() -> None:
    """A constructed task: with a mask on the left block 1 is needed, on the right block 3.

    Trained for a short while, plans in use change when masks are swapped, within one video too,
    and the deterministic threshold of the paper chooses as top-k does.
    """
    torch.manual_seed(0)
    router = PredictiveRouter(replace(CONFIG, temperature=0.2))
    policy = SamplingPolicy(router, 0.5)  # one free block
    optimizer = torch.optim.AdamW(router.parameters(), lr=2e-3)
    left, right = torch.full((1, 1, 32, 32), -10.0), torch.full((1, 1, 32, 32), -10.0)
    left[..., :12], right[..., 20:] = 10.0, 10.0
    blocks = [Direction(index) for index in range(6)]
    steps, x = 150, embedding(1)
    for step in range(steps):
        policy.reseed(step)
        policy.temperature = 0.2 ** (step / steps)
        wanted = torch.tensor([1, 3]).repeat(4)
        plan = policy.plan(x.repeat(8, 1, 1, 1), torch.cat([left, right]).repeat(4, 1, 1, 1))
        y = torch.zeros(8, 1, 1, 6)
        for index, block in enumerate(blocks):
            y = plan.apply(index, block, y)
        optimizer.zero_grad()
        (y[:, 0, 0].gather(1, wanted[:, None]) - 1).square().mean().backward()
        optimizer.step()
    video = [left, left, right, right, left]
    for rule in (TopK(), Threshold()):
        used = RecurrentPolicy(router.eval(), FixedBudget(0.5), rule)
        chosen = [used.plan(x, mask).blocks.nonzero().flatten().tolist() for mask in video]
        assert chosen == [[0, 1, 5], [0, 1, 5], [0, 3, 5], [0, 3, 5], [0, 1, 5]]


def test_a_sample_whose_embedding_is_not_finite_runs_everything() -> None:
    encoder = HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=6)).requires_grad_(False)
    policy = SamplingPolicy(make_router(RouterConfig.for_encoder(encoder)), 0.4)
    x = torch.randn(2, 4, 4, encoder.patch_channels)
    x[0, 0, 0, 0] = float("nan")
    for mode in (True, False):
        ran = policy.train(mode).plan(x, torch.randn(2, 1, 16, 16)).blocks
        assert ran[0].all() and not ran[1].all()


def test_a_settled_policy_draws_no_more() -> None:
    encoder = HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=6)).requires_grad_(False)
    policy = SamplingPolicy(make_router(RouterConfig.for_encoder(encoder)), 0.6)
    images, previous = torch.randn(2, 3, 64, 64), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        used = encoder(images, policy.eval(), previous).blocks
        policy.train().settled = True
        settled = encoder(images, policy, previous).blocks
    assert settled.tolist() == used.tolist() and (used.sum(dim=1) == 4).all()


def test_what_a_block_of_k_is_worth_is_not_learnt() -> None:
    """The loss says nothing of its gradient, as the block runs whatever w is."""
    router = make_router()
    policy = SamplingPolicy(router, 0.6)
    policy.reseed(0)
    for index in range(CONFIG.num_blocks):
        plan = policy.plan(embedding(), masks())
        router.zero_grad()
        inputs = torch.zeros(len(masks()), 1, 1, CONFIG.num_blocks, requires_grad=True)
        plan.apply(index, Direction(index), inputs).sum().backward()
        moved = router.head.bias.grad is not None and router.head.bias.grad.any()
        assert moved == (index not in CONFIG.always_on)


def test_skipped_blocks_are_learnt_from_by_default() -> None:
    """d X' / d r = h(X) - X of X' = r h(X) + (1 - r) X, whether the block ran or not."""
    router = make_router()
    policy = SamplingPolicy(router, 0.5)  # one free block
    for seed in range(8):
        policy.reseed(seed)
        plan = policy.plan(embedding(1), masks(1))
        skipped = [i for i in range(1, 5) if not plan.blocks[0, i]]
        assert len(skipped) == 3
        for index in skipped:
            router.zero_grad()
            y = plan.apply(index, Direction(index), torch.zeros(1, 1, 1, 6))
            assert not y.any(), "the block is skipped"
            y.sum().backward(retain_graph=True)
            assert router.head.bias.grad is not None and router.head.bias.grad[index] > 0


def test_the_router_learns_through_a_whole_pass() -> None:
    torch.manual_seed(1)
    encoder = HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=6))
    encoder.requires_grad_(False)
    router = make_router(RouterConfig.for_encoder(encoder))
    policy = SamplingPolicy(router, 0.6)
    policy.reseed(0)
    output = encoder(torch.randn(3, 3, 64, 64), policy, torch.randn(3, 1, 16, 16))
    assert output.blocks.shape == (3, 6) and not output.blocks.all()
    output.features[-1].square().sum().backward()
    silent = [n for n, p in router.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def small_hiera() -> Hiera:
    torch.manual_seed(0)
    return Hiera(HieraConfig(embed_dim=8, stages=(1, 2, 4, 2), global_attention_blocks=(4,)))


def test_training_routes_every_sample_by_itself() -> None:
    """A batch gives what its samples give alone, with the same draws."""
    encoder = small_hiera()
    policy = SamplingPolicy(make_router(RouterConfig.for_encoder(encoder)), 0.7)
    policy.temperature = 10.0
    images, previous = torch.randn(3, 3, 64, 64), torch.randn(3, 1, 16, 16)
    policy.reseed(5)
    together = encoder(images, policy, previous)
    assert len({tuple(row) for row in together.blocks.tolist()}) > 1, "they route differently"
    for index in range(3):
        keep = together.blocks[index].nonzero().flatten().tolist()
        alone = encoder(images[index : index + 1], StaticPlan(keep, encoder))
        for a, b in zip(together.features, alone.features, strict=True):
            assert torch.allclose(a[index : index + 1], b, atol=1e-5)


def test_training_draws_follow_w_and_repeat_with_the_seed() -> None:
    router = make_router()
    policy = SamplingPolicy(router, 0.7)  # two free blocks
    policy.temperature = 2.0
    assert policy.recurrent
    x, m = embedding(1), masks(1)
    w = router.weights(router(x, m), 0.7, temperature=2.0).clamp(max=1)[0]
    policy.reseed(3)
    drawn = torch.stack([policy.plan(x, m).blocks for _ in range(1500)])[:, 0]
    policy.reseed(3)
    again = torch.stack([policy.plan(x, m).blocks for _ in range(1500)])[:, 0]
    assert torch.equal(drawn, again)
    assert drawn.double().mean(dim=0).tolist() == pytest.approx(w.tolist(), abs=0.05)


def test_evaluation_of_a_policy_in_training_holds_the_budget() -> None:
    policy = SamplingPolicy(make_router(), 0.5).eval()
    blocks = policy.plan(embedding(), masks()).blocks
    assert blocks.sum(dim=1).tolist() == [3, 3]
    with torch.no_grad():
        assert torch.equal(policy.plan(embedding(), masks()).blocks, blocks)


@pytest.mark.parametrize("training", [True, False])
def test_missing_and_broken_masks_run_everything(training: bool) -> None:
    policy = SamplingPolicy(make_router(), 0.4).train(training)
    policy.reseed(0)
    assert policy.plan(embedding(), None).blocks.tolist() == [True] * 6
    broken = masks()
    broken[1, 0, 3, 3] = float("nan")
    blocks = policy.plan(embedding(), broken).blocks
    assert blocks[1].all() and not blocks[0].all()
