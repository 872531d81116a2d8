"""The router of RDS and its plans: K, gradients through the draws, and blocks that are not run."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from tempomask.errors import InputError
from tempomask.models.config import HIERA_SIZES, VIT_SIZES, HieraConfig, HybridConfig
from tempomask.models.encoder import Encoder, RoutedBlock
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.vit import ViT
from tempomask.routing.predictive import (
    MaskHistory,
    PredictiveRouter,
    RoutedPlan,
    RouterConfig,
    SamplingPolicy,
)
from tempomask.routing.static import StaticPlan

CONFIG = RouterConfig(num_blocks=6, channels=8, mask_stride=4, always_on=(0, 5))


class Scale(RoutedBlock):
    """Adds its input times a factor; counts the samples it was run on."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))
        self.samples: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.samples.append(len(x))
        return x + self.factor * x


def make_router(config: RouterConfig = CONFIG) -> PredictiveRouter:
    """Weights large enough for every input to matter."""
    torch.manual_seed(0)
    router = PredictiveRouter(config)
    with torch.no_grad():
        router.head.weight.mul_(200)
    return router


def embedding(batch: int = 2, side: int = 8) -> Tensor:
    return torch.randn(batch, side, side, 8, generator=torch.Generator().manual_seed(batch))


def masks(batch: int = 2, frames: int = 1) -> Tensor:
    return torch.randn(batch, frames, 16, 16, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: Hiera(HIERA_SIZES["large"]), (0, 2, 8, 44, 47)),
        (lambda: Hiera(HIERA_SIZES["tiny"]), (0, 1, 3, 10, 11)),
        (lambda: ViT(VIT_SIZES["s"]), (0, 11)),
        (lambda: HybridEncoder(HybridConfig()), (0, 13)),
    ],
    ids=["hiera-large", "hiera-tiny", "vit", "nano"],
)
def test_what_always_runs_comes_from_the_encoder(build: object, expected: tuple[int, ...]) -> None:
    with torch.device("meta"):
        encoder: Encoder = build()  # type: ignore[operator]
        config = RouterConfig.for_encoder(encoder)
        router = PredictiveRouter(config)
    assert config.always_on == expected
    # Light: below half a percent of the smallest of these encoders.
    assert sum(p.numel() for p in router.parameters()) < 45_000


@pytest.mark.parametrize("inputs", ["both", "mask", "image"])
def test_the_router_sees_what_it_should(inputs: str) -> None:
    router = make_router(replace(CONFIG, inputs=inputs))  # type: ignore[arg-type]
    logits = router(embedding(), masks())
    assert logits.shape == (2, 6) and logits.dtype == torch.float32
    other_image = router(embedding() + torch.randn(2, 8, 8, 8), masks())
    other_mask = router(embedding(), -masks())
    assert torch.equal(logits, other_image) == (inputs == "mask")
    assert torch.equal(logits, other_mask) == (inputs == "image")
    # Logits of the mask are binarised at 0.
    assert torch.equal(logits, router(embedding(), masks() * 100))


def test_an_indifferent_start() -> None:
    p = PredictiveRouter(CONFIG)(embedding(), masks()).sigmoid()
    assert (p - 0.5).abs().max() < 0.05


def test_neither_input_is_trained_through_the_router() -> None:
    x, m = embedding().requires_grad_(), masks().requires_grad_()
    make_router()(x, m).sum().backward()
    assert x.grad is None and m.grad is None


def test_every_part_of_the_router_learns() -> None:
    router = make_router()
    router(embedding(), masks()).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in router.parameters())


@pytest.mark.parametrize(
    ("change", "message"),
    [({"inputs": "words"}, "inputs must be"), ({"mask_frames": 0}, "mask_frames must be")],
)
def test_bad_configurations_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(CONFIG, **change)  # type: ignore[arg-type]


def test_the_history_holds_the_last_masks_newest_first() -> None:
    history = MaskHistory(3)
    seen = [
        history.push(torch.full((1, 1, 2, 2), float(t)))[1][0, :, 0, 0].tolist() for t in range(5)
    ]
    assert seen == [[0, 0, 0], [1, 0, 0], [2, 1, 0], [3, 2, 1], [4, 3, 2]]
    history.clear()
    assert history.push(torch.full((1, 1, 2, 2), 7.0))[1][0, :, 0, 0].tolist() == [7, 7, 7]


def test_the_history_leaves_out_masks_that_are_not_finite() -> None:
    """Two samples; nan stands for a mask of which one value is not finite."""
    nan = float("nan")
    history = MaskHistory(3)
    valid, seen = [], []
    for values in ((nan, 1.0), (2.0, nan), (3.0, nan), (nan, 4.0), (5.0, 5.0)):
        masks = torch.ones(2, 1, 2, 2) * torch.tensor(values).nan_to_num(9.0).view(2, 1, 1, 1)
        masks[torch.tensor(values).isnan(), 0, 0, 0] = nan
        used, last = history.push(masks)
        valid.append(used.tolist())
        seen.append(last[:, :, 1, 1].tolist())
        assert last.isfinite().all()
    assert valid == [[False, True], [True, False], [True, False], [False, True], [True, True]]
    assert [first for first, _ in seen] == [
        [-1, -1, -1], [2, 2, 2], [3, 2, 2], [3, 2, 2], [5, 3, 2],
    ]  # fmt: skip
    assert [second for _, second in seen] == [
        [1, 1, 1], [1, 1, 1], [1, 1, 1], [4, 1, 1], [5, 4, 1],
    ]  # fmt: skip


def test_a_sample_whose_embedding_is_not_finite_runs_everything() -> None:
    encoder = HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=6)).requires_grad_(False)
    policy = SamplingPolicy(make_router(RouterConfig.for_encoder(encoder)), 0.4)
    x = torch.randn(2, 4, 4, encoder.patch_channels)
    x[0, 0, 0, 0] = float("nan")
    for mode in (True, False):
        ran = policy.train(mode).plan(x, torch.randn(2, 1, 16, 16)).blocks
        assert ran[0].all() and not ran[1].all()


def test_four_masks_are_told_apart() -> None:
    router = make_router(replace(CONFIG, mask_frames=4))
    several = masks(frames=4)
    swapped = several[:, [1, 0, 2, 3]]
    assert not torch.equal(router(embedding(), several), router(embedding(), swapped))


def test_a_block_runs_on_the_samples_that_want_it_and_on_no_others() -> None:
    blocks = [Scale(1.0), Scale(2.0), Scale(3.0)]
    plan = RoutedPlan([[True, False, False], [True, True, False], [True, False, False]])
    x = torch.arange(1.0, 4.0).reshape(3, 1, 1, 1)
    for index, block in enumerate(blocks):
        x = plan.apply(index, block, x)
    assert x.flatten().tolist() == [2.0, 4.0 * 3, 6.0]
    assert [block.samples for block in blocks] == [[3], [1], []]
    assert plan.blocks.tolist() == [[True, False, False], [True, True, False], [True, False, False]]


def test_gradients_go_straight_through_the_draw() -> None:
    """out = r h(x) + (1 - r) x, with d r / d w = 1 whether the block ran or not."""
    block = Scale(2.0)
    x = torch.tensor([1.0, 5.0, 7.0]).reshape(3, 1, 1, 1).requires_grad_()
    weights = torch.tensor([[0.3], [0.6], [0.9]], requires_grad=True)
    plan = RoutedPlan([[True], [False], [True]], weights, missed=True)
    out = plan.apply(0, block, x)
    # The value is exactly the block's, whatever w is.
    assert out.flatten().tolist() == [3.0, 5.0, 21.0]
    upstream = torch.tensor([1.0, 10.0, 100.0])
    (out.flatten() * upstream).sum().backward()
    assert weights.grad is not None and x.grad is not None and block.factor.grad is not None
    # <upstream, h(x) - x>
    assert weights.grad.flatten().tolist() == pytest.approx([1.0 * 2, 10.0 * 10, 100.0 * 14])
    assert x.grad.flatten().tolist() == pytest.approx([3.0, 10.0, 300.0])
    assert block.factor.grad.item() == pytest.approx(1.0 * 1 + 100.0 * 7)


def test_without_the_gradient_of_skipped_blocks_nothing_of_them_is_computed() -> None:
    block = Scale(2.0)
    x = torch.tensor([1.0, 5.0]).reshape(2, 1, 1, 1)
    weights = torch.tensor([[0.3], [0.6]], requires_grad=True)
    out = RoutedPlan([[True], [False]], weights).apply(0, block, x)
    assert out.flatten().tolist() == [3.0, 5.0] and block.samples == [1]
    out.sum().backward()
    assert weights.grad is not None and weights.grad.flatten().tolist() == [2.0, 0.0]
    block.samples.clear()
    assert RoutedPlan([[False], [False]], weights).apply(0, block, x) is x
    assert block.samples == []


def test_a_settled_policy_draws_no_more() -> None:
    encoder = HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=6)).requires_grad_(False)
    policy = SamplingPolicy(make_router(RouterConfig.for_encoder(encoder)), 0.6)
    images, previous = torch.randn(2, 3, 64, 64), torch.randn(2, 1, 16, 16)
    with torch.no_grad():
        used = encoder(images, policy.eval(), previous).blocks
        policy.train().settled = True
        settled = encoder(images, policy, previous).blocks
    assert settled.tolist() == used.tolist() and (used.sum(dim=1) == 3).all()


def test_what_a_block_of_k_is_worth_is_not_learnt() -> None:
    """The loss says nothing of its gradient, as the block runs whatever w is."""
    router = make_router()
    policy = SamplingPolicy(router, 0.6)
    policy.reseed(0)
    block = Scale(2.0)
    for index in range(CONFIG.num_blocks):
        plan = policy.plan(embedding(), masks())
        router.zero_grad()
        out = plan.apply(index, block, torch.randn(len(masks()), 1, 1, 1, requires_grad=True))
        out.sum().backward()
        moved = router.head.bias.grad is not None and router.head.bias.grad.any()
        assert moved == (index not in CONFIG.always_on)


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
    images, previous = torch.randn(3, 3, 64, 64), torch.randn(3, 1, 16, 16)
    policy.reseed(4)
    together = encoder(images, policy, previous)
    assert len({tuple(row) for row in together.blocks.tolist()}) > 1, "they route differently"
    for index in range(3):
        keep = together.blocks[index].nonzero().flatten().tolist()
        alone = encoder(images[index : index + 1], StaticPlan(keep, encoder))
        for a, b in zip(together.features, alone.features, strict=True):
            assert torch.allclose(a[index : index + 1], b, atol=1e-5)


def test_training_draws_follow_w_and_repeat_with_the_seed() -> None:
    router = make_router()
    policy = SamplingPolicy(router, 0.5)
    assert policy.recurrent
    x, m = embedding(1), masks(1)
    p = router(x, m).sigmoid()
    w = (0.5 * 6 * p / p.sum()).clamp(max=1)[0]
    policy.reseed(3)
    drawn = torch.stack([policy.plan(x, m).blocks for _ in range(1500)])[:, 0]
    policy.reseed(3)
    again = torch.stack([policy.plan(x, m).blocks for _ in range(1500)])[:, 0]
    assert torch.equal(drawn, again)
    assert drawn[:, [0, 5]].all()
    rates = drawn.double().mean(dim=0)[1:5]
    assert rates.tolist() == pytest.approx(w[1:5].tolist(), abs=0.05)


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
