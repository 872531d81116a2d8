"""The contract of every image encoder and every policy: a new one is added to a table here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tempomask.baselines.adavit import AdaViT
from tempomask.errors import InputError
from tempomask.models.config import HieraConfig, HybridConfig, RepViTConfig, ViTConfig
from tempomask.models.dinov3 import DINOv3, DINOv3Config
from tempomask.models.encoder import Encoder, KeepPlan, Policy, RoutedBlock
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.repvit import RepViT, RepViTBlock
from tempomask.models.vit import ViT
from tempomask.routing.budget import FixedBudget, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.routing.static import StaticPlan

HIERA = HieraConfig(
    embed_dim=8,
    stages=(1, 2, 3, 2),
    global_attention_blocks=(4,),
    window_sizes=(8, 4, 6, 3),
    position_size=(5, 5),
)
VIT = ViTConfig(
    dim=16,
    num_heads=2,
    depth=4,
    global_attention_blocks=(1, 3),
    window_size=3,
    position_size=5,
)
ENCODERS: dict[str, Callable[[], Encoder]] = {
    "hiera": lambda: Hiera(HIERA),
    "vit": lambda: ViT(VIT),
    "repvit": lambda: RepViT(RepViTConfig((1, 2, 3, 1), (8, 16, 24, 32))),
    "hybrid": lambda: HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=4)),
    "dinov3": lambda: DINOv3(DINOv3Config("tiny", 16, 2, 4, 32)),
    "dinov3-gated": lambda: DINOv3(DINOv3Config("tiny", 16, 2, 3, 32, gated=True)),
}
POLICIES: dict[str, Callable[[Encoder], Policy]] = {
    "static": lambda encoder: StaticPlan(sorted(encoder.required_blocks), encoder),
    "predictive": lambda encoder: RecurrentPolicy(
        PredictiveRouter(RouterConfig.for_encoder(encoder)), FixedBudget(0.6), TopK()
    ),
    "adavit": lambda encoder: AdaViT(encoder).eval(),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    if request.param.startswith("dinov3"):
        pytest.importorskip("transformers")
    encoder = ENCODERS[request.param]().eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


@pytest.fixture(params=POLICIES)
def policy(request: pytest.FixtureRequest, encoder: Encoder) -> Policy:
    return POLICIES[request.param](encoder)


def random_image(side: int = 64, batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(side))


class Recorder(Policy):
    """A policy that runs everything and notes what it was asked."""

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Recorder:
        self.embedding, self.previous_masks = embedding, previous_masks
        self.applied: list[int] = []
        return self

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        self.applied.append(index)
        return block.feed_forward(block.attend(x))

    @property
    def blocks(self) -> Tensor:
        return (
            torch.zeros(max(self.applied) + 1).bool().index_fill(0, torch.tensor(self.applied), 1)
        )


class OneSample(Policy):
    """Skips a block for the first sample of a batch only, and says so."""

    def __init__(self, index: int, count: int) -> None:
        self.index, self.count = index, count

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> OneSample:
        return self

    def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
        if index != self.index:
            return block(x)
        return torch.cat([x[:1], block(x[1:])])

    @property
    def blocks(self) -> Tensor:
        blocks = torch.ones(2, self.count, dtype=torch.bool)
        blocks[0, self.index] = False
        return blocks


@pytest.mark.parametrize("side", [64, 96, 160])
@pytest.mark.parametrize("batch", [1, 2])
def test_maps_have_the_declared_strides_and_channels(
    encoder: Encoder, side: int, batch: int
) -> None:
    output = encoder(random_image(side, batch))
    assert len(output.features) == len(encoder.strides) == len(encoder.channels)
    assert list(encoder.strides) == sorted(encoder.strides)
    for features, stride, channels in zip(
        output.features, encoder.strides, encoder.channels, strict=True
    ):
        assert features.shape == (batch, channels, side // stride, side // stride)
        assert features.isfinite().all()
    assert output.blocks.dtype == torch.bool
    assert output.blocks.tolist() == [True] * encoder.num_blocks


def test_the_policy_sees_the_embedding_and_every_block_once(encoder: Encoder) -> None:
    recorder, masks = Recorder(), torch.randn(2, 1, 16, 16)
    image = random_image(batch=2)
    routed = encoder(image, recorder, masks)
    batch, height, width, channels = recorder.embedding.shape
    assert (batch, channels) == (2, encoder.patch_channels)
    assert height == width == 64 // encoder.patch_stride
    assert recorder.previous_masks is masks
    assert recorder.applied == list(range(encoder.num_blocks))
    # The two halves of a block are the block.
    for ours, plain in zip(routed.features, encoder(image).features, strict=True):
        assert torch.equal(ours, plain)


def test_samples_of_a_batch_do_not_mix(encoder: Encoder) -> None:
    both = random_image(batch=2)
    for together, alone in zip(encoder(both).features, encoder(both[1:]).features, strict=True):
        assert torch.allclose(together[1:], alone, atol=1e-4)


@torch.no_grad()
def silence(block: RoutedBlock) -> None:
    """Make a block add nothing."""
    layers = [*block.attention_layers[-1:], *block.feed_forward_layers[-1:]]
    if isinstance(block, RepViTBlock):
        layers += ["mixer.depthwise.norm", "mixer.pointwise.norm"]
        if block.excite is not None:
            block.excite.weight.zero_()
            block.excite.bias.fill_(100.0)
    for name in layers:
        layer = block.get_submodule(name)
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                tensor.zero_()


def test_a_skipped_block_is_the_identity(encoder: Encoder) -> None:
    """Skipping a block equals adding nothing in it; every block that may go is tried."""
    image = random_image()
    full = encoder(image).features
    for index in set(range(encoder.num_blocks)) - encoder.required_blocks:
        keep = [i for i in range(encoder.num_blocks) if i != index]
        skipped = encoder(image, StaticPlan(keep, encoder))
        assert skipped.blocks.tolist() == [i != index for i in range(encoder.num_blocks)]
        assert any(not torch.allclose(a, b) for a, b in zip(skipped.features, full, strict=True))
        block = encoder.blocks[index]
        saved = {name: x.clone() for name, x in block.state_dict().items()}
        silence(block)
        silenced = encoder(image).features
        block.load_state_dict(saved)
        for a, b in zip(skipped.features, silenced, strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_required_blocks_change_the_shape_and_no_others_do(encoder: Encoder) -> None:
    shapes: list[torch.Size] = []

    class Shapes(Recorder):
        def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
            shapes.append(x.shape)
            self.applied.append(index)
            x = block(x)
            if index == encoder.num_blocks - 1:
                shapes.append(x.shape)
            return x

    encoder(random_image(), Shapes())
    changing = {i for i in range(encoder.num_blocks) if shapes[i] != shapes[i + 1]}
    assert changing == encoder.required_blocks


def test_required_blocks_cannot_be_dropped(encoder: Encoder) -> None:
    for index in encoder.required_blocks:
        keep = set(range(encoder.num_blocks)) - {index}
        with pytest.raises(InputError, match=rf"\[{index}\] change the feature shape"):
            StaticPlan(keep, encoder)


def test_samples_may_be_routed_differently(encoder: Encoder) -> None:
    index = max(set(range(encoder.num_blocks)) - encoder.required_blocks)
    image = random_image(batch=2)
    output = encoder(image, OneSample(index, encoder.num_blocks))
    assert output.blocks.tolist()[0][index] is False and output.blocks[1].all()
    keep = set(range(encoder.num_blocks)) - {index}
    without = encoder(image, StaticPlan(keep, encoder)).features[-1]
    full = encoder(image).features[-1]
    assert torch.allclose(output.features[-1][0], without[0], atol=1e-5)
    assert torch.allclose(output.features[-1][1], full[1], atol=1e-5)


def test_gradients_reach_every_parameter(encoder: Encoder) -> None:
    encoder.train()
    image = random_image().requires_grad_()
    features = encoder(image).features
    torch.stack([(x * torch.randn_like(x)).sum() for x in features]).sum().backward()
    assert image.grad is not None and image.grad.abs().max() > 0
    silent = [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.any()]
    assert not silent


def test_inference_leaves_nothing_that_breaks_training(encoder: Encoder) -> None:
    with torch.inference_mode():
        before = encoder(random_image()).features[-1].clone()
    features = encoder(random_image()).features[-1]
    # With gradients attention may take another path, which rounds differently.
    assert torch.allclose(features, before, atol=1e-4)
    features.sum().backward()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(0.5)
    assert not torch.allclose(encoder(random_image()).features[-1], before)


def test_policies_keep_the_contract(encoder: Encoder, policy: Policy) -> None:
    for masks in (None, torch.randn(1, 1, 16, 16)):
        output = encoder(random_image(), policy, masks)
        assert output.blocks.shape[-1] == encoder.num_blocks and output.blocks.dtype == torch.bool
        assert all(output.blocks[..., index].all() for index in encoder.required_blocks)
        for features, stride in zip(output.features, encoder.strides, strict=True):
            assert features.shape[2:] == (64 // stride, 64 // stride)


def test_policies_have_no_memory_of_earlier_frames(encoder: Encoder, policy: Policy) -> None:
    first = encoder(random_image(), policy)
    encoder(random_image(96), policy)
    again = encoder(random_image(), policy)
    assert torch.equal(first.blocks, again.blocks)
    assert all(torch.equal(a, b) for a, b in zip(first.features, again.features, strict=True))


def test_keep_plan_reports_what_it_was_given() -> None:
    assert KeepPlan([True, False, True]).blocks.tolist() == [True, False, True]


def test_linear_layers_are_declared_and_image_tokens_found(encoder: Encoder) -> None:
    """What adapters go to, by names that the encoder knows; patches without prefix or padding."""
    for index, block in enumerate(encoder.blocks):
        layers = encoder.linear_layers(index)
        assert all(encoder.get_submodule(name) is layer for name, layer in layers.items())
        declared = {id(layer) for layer in layers.values()}
        others = [m for m in block.modules() if isinstance(m, torch.nn.Linear)]
        left = [m for m in others if id(m) not in declared]
        assert len(left) <= (index in encoder.required_blocks), "only shortcuts are left out"

    class Tokens(Recorder):
        def apply(self, index: int, block: RoutedBlock, x: Tensor) -> Tensor:
            if index == 0:
                seen.append(block.image_tokens(x))
            return super().apply(index, block, x)

    seen: list[Tensor] = []
    recorder = Tokens()
    encoder(random_image(96), recorder)
    assert torch.equal(seen[0], recorder.embedding.flatten(1, 2))
