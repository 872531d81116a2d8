"""The fast engine computes what the plain network computes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tempomask.engine import accelerate
from tempomask.engine.hybrid import FastTransformerBlock, FusedConvolution, can_fuse
from tempomask.engine.packed import (
    Activation,
    PackedLinear,
    can_pack,
    fast_linear,
    fast_token_linear,
)
from tempomask.engine.ragged_windows import attend_ragged, is_ragged
from tempomask.engine.trunk import StripBlock
from tempomask.errors import InputError
from tempomask.model import Model
from tempomask.models.config import (
    HieraConfig,
    HybridConfig,
    MemoryAttentionConfig,
    MemoryForm,
    PerceiverConfig,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
    segmenter_config,
)
from tempomask.models.hiera import Hiera
from tempomask.models.hybrid import ConvolutionalStem, SameConv2d, TransformerBlock
from tempomask.models.segmenter import Decoded, MemoryInputs, Segmenter
from tempomask.models.windowed_block import WindowedBlock
from tempomask.prompts import Prompt
from tempomask.routing.static import StaticPlan

SIDE = 128
HIERA = HieraConfig(
    embed_dim=16, stages=(1, 2, 3, 1), global_attention_blocks=(4,), position_size=(5, 5)
)
VIT = ViTConfig(dim=32, num_heads=2, depth=3, global_attention_blocks=(1,), window_size=3)


def vit_config(name: str) -> SegmenterConfig:
    return replace(segmenter_config(name), encoder=VIT, image_size=SIDE)


CONFIGS = {
    "hiera": replace(segmenter_config("sam2.1-tiny"), encoder=HIERA, image_size=SIDE),
    "vit": vit_config("efficienttam-ti"),
    "vit-eq5": vit_config("efficienttam-ti-1"),
    "vit-eq6": vit_config("efficienttam-ti-2"),
    "vit-eq5-4": vit_config("efficienttam-ti").with_memory(MemoryForm("eq5", 4)),
    "vit-eq6-1": vit_config("efficienttam-ti").with_memory(MemoryForm("eq6", 1)),
    "vit-no-pointers": vit_config("efficienttam-ti").with_memory(MemoryForm(pointers=False)),
    "edgetam": replace(
        segmenter_config("edgetam"),
        encoder=RepViTConfig((1, 1, 2, 1), (8, 16, 24, 32)),
        perceiver=PerceiverConfig(1, 5, 4),
        image_size=SIDE,
    ),
    "nano": replace(
        segmenter_config("nano"),
        encoder=HybridConfig(dim=32, num_heads=2, depth=2),
        memory_attention=MemoryAttentionConfig(layers=2, feedforward_dim=64, image_keys=True),
        image_size=SIDE,
    ),
}
CONFIGS["nano-short-stem"] = replace(
    CONFIGS["nano"], encoder=HybridConfig(dim=32, num_heads=2, depth=2, stem=(1, 2, 2))
)


@pytest.fixture(params=CONFIGS)
def plain(request: pytest.FixtureRequest, randomise: Callable[[Segmenter], Segmenter]) -> Segmenter:
    """A tiny segmenter in which every weight matters."""
    torch.manual_seed(0)
    segmenter = randomise(Segmenter(CONFIGS[request.param]).eval())
    # Objects are present: the masks of absent ones are all alike.
    with torch.no_grad():
        segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(9.0)  # type: ignore[operator]
    return segmenter


def memory(segmenter: Segmenter, objects: int) -> MemoryInputs:
    side = SIDE // 16
    image_keys = segmenter.config.memory_attention.image_keys
    return MemoryInputs(
        spatial=torch.randn(objects, 3, *segmenter.config.memory_shape),
        images=torch.randn(1, 3, segmenter.config.hidden_dim, side, side) if image_keys else None,
        temporal_index=torch.tensor([6, 1, 0]),
        pointers=torch.randn(objects, 4, segmenter.config.hidden_dim),
        pointer_distance=torch.arange(4) / 15.0,
    )


def assert_near(fast: Tensor, plain: Tensor, tolerance: float) -> None:
    assert fast.shape == plain.shape
    scale = float(plain.abs().max())
    assert float((fast.float() - plain).abs().max()) <= tolerance * scale
    assert float(plain.std()) > 1e-3 * scale


def assert_decodes(
    fast: Segmenter, plain: Segmenter, features: Tensor, maps: tuple[Tensor, ...], tolerance: float
) -> Decoded:
    """Every candidate of a single mask and of several; returns the plain network's single one."""
    for multimask in (True, False):
        expected = plain.decode(features, maps, multimask=multimask)
        got = fast.decode(features, maps, multimask=multimask)
        assert_near(got.all_logits, expected.all_logits, tolerance)
        assert_near(got.all_pointers, expected.all_pointers, tolerance)
        error = (got.all_iou.float() - expected.all_iou).abs().max()
        assert error <= tolerance * expected.all_iou.abs().max()
    return expected


@torch.inference_mode()
@pytest.mark.usefixtures("kernels")
def test_float32_is_the_same(plain: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where objects (64 tokens each) and tokens pass in several parts."""
    monkeypatch.setattr("tempomask.engine.memory_attention.MLP_TOKENS", 16)
    fast = accelerate(deepcopy(plain))
    image = torch.randn(1, 3, SIDE, SIDE)
    expected, got = plain.encode(image), fast.encode(image)
    assert_near(got.features, expected.features, 1e-5)
    for a, b in zip(got.high_resolution, expected.high_resolution, strict=True):
        assert_near(a, b, 1e-5)
    for objects, together in ((1, (64,)), (3, (64, 128, 4096))):
        inputs = memory(plain, objects)
        attended = plain.attend(expected.features, inputs)
        for tokens in together:
            monkeypatch.setattr("tempomask.engine.memory_attention.TOKENS", tokens)
            assert_near(fast.attend(expected.features, inputs), attended, 1e-5)
        decoded = assert_decodes(fast, plain, attended, expected.high_resolution, 1e-5)
        memorised = (expected.features, decoded.logits, decoded.object_score)
        assert_near(fast.encode_memory(*memorised), plain.encode_memory(*memorised), 1e-5)


@torch.inference_mode()
def test_bfloat16_stays_near(plain: Segmenter) -> None:
    fast = accelerate(deepcopy(plain), torch.bfloat16)
    image = torch.randn(1, 3, SIDE, SIDE)
    expected = plain.encode(image)
    inputs = memory(plain, 2)
    with torch.autocast("cpu", torch.bfloat16):
        got = fast.encode(image)
        attended = fast.attend(expected.features, inputs)
    assert_near(got.features, expected.features, 0.05)
    conditioned = plain.attend(expected.features, inputs)
    assert_near(attended, conditioned, 0.05)

    def in_bfloat16(step: Callable[..., Any]) -> Callable[..., Any]:
        return torch.autocast("cpu", torch.bfloat16)(step)

    fast.decode = in_bfloat16(fast.decode)  # type: ignore[method-assign]
    decoded = assert_decodes(fast, plain, conditioned, expected.high_resolution, 0.05)
    memorised = (expected.features, decoded.logits, decoded.object_score)
    assert_near(in_bfloat16(fast.encode_memory)(*memorised), plain.encode_memory(*memorised), 0.05)


def test_videos_are_the_same(plain: Segmenter) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 60, 90, 3)).astype(np.uint8)
    prompts = [Prompt(points=[(30, 30)]), Prompt(object_id=2, box=(40, 10, 80, 50))]
    expected = list(Model(plain).track(frames, prompts))
    fast = list(Model(accelerate(deepcopy(plain))).track(frames, prompts))
    for a, b in zip(fast, expected, strict=True):
        scale = np.abs(b.low_res_logits).max()
        assert np.abs(a.low_res_logits - b.low_res_logits).max() <= 1e-3 * scale


@torch.inference_mode()
@pytest.mark.parametrize(
    ("name", "size"),
    [(name, size) for name in ("hiera", "vit") for size in ((96, 160), (160, 96), (128, 32))]
    + [("vit", (48, 80))],
)
def test_images_of_other_sizes_and_the_usual_ones_again(
    name: str, size: tuple[int, int], randomise: Callable[[Segmenter], Segmenter]
) -> None:
    plain = randomise(Segmenter(CONFIGS[name]).eval())
    usual, other = torch.randn(1, 3, SIDE, SIDE), torch.randn(2, 3, *size)
    images = [usual, other, other, usual, other.transpose(2, 3)]
    expected = [plain.encoder(image).features for image in images]
    fast = accelerate(plain).encoder
    for image, maps in zip(images, expected, strict=True):
        for got, wanted in zip(fast(image).features, maps, strict=True):
            assert_near(got, wanted, 1e-5)


def test_positions_are_made_in_float32_once_for_each_size(
    randomise: Callable[[Segmenter], Segmenter], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = randomise(Segmenter(CONFIGS["hiera"]).eval())
    grid = (24, 40)
    expected = plain.encoder.position_encoding(*grid)  # type: ignore[operator]
    encoder = accelerate(plain, torch.bfloat16).encoder
    made: list[tuple[int, ...]] = []
    original = Hiera.position_encoding

    def counted(self: Hiera, *grid: int) -> Tensor:
        made.append(grid)
        return original(self, *grid)

    monkeypatch.setattr(Hiera, "position_encoding", counted)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for _ in range(3):
            encoder(torch.randn(1, 3, SIDE, SIDE))
            encoder(torch.randn(1, 3, 96, 160))
        got = encoder._position(*grid)  # type: ignore[operator]
    assert made == [grid] and torch.equal(got, expected.bfloat16())


@torch.inference_mode()
def test_images_that_the_plain_trunk_refuses_are_refused() -> None:
    plain = Segmenter(CONFIGS["hiera"]).eval()
    image = torch.randn(1, 3, 72, SIDE)
    with pytest.raises(RuntimeError, match="must match"):
        plain.encoder(image)
    with pytest.raises(RuntimeError, match="must match"):
        accelerate(plain).encoder(image)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("copied", [deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
@pytest.mark.parametrize("name", ["hiera", "nano"])
def test_copies_and_pickles(
    name: str, copied: Callable[[Model], Model], dtype: torch.dtype
) -> None:
    """Also of a model that has been used."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 60, 90, 3)).astype(np.uint8)
    model = Model(accelerate(Segmenter(CONFIGS[name]), dtype), dtype)
    expected = list(model.track(frames, Prompt(points=[(30, 30)])))
    got = list(copied(model).track(frames, Prompt(points=[(30, 30)])))
    for a, b in zip(got, expected, strict=True):
        assert np.array_equal(a.low_res_logits, b.low_res_logits)


def test_accelerating_twice_or_for_another_type_is_refused() -> None:
    fast = accelerate(Segmenter(CONFIGS["nano"]), torch.bfloat16)
    with pytest.raises(InputError, match="accelerated already"):
        accelerate(fast)
    with pytest.raises(InputError, match="torch.bfloat16"):
        Model(fast, torch.float32)
    with pytest.raises(InputError, match=r"torch\.bfloat16"):
        Model(accelerate(Segmenter(CONFIGS["nano"])), torch.bfloat16)


def test_plans_skip_blocks_of_the_fast_trunk() -> None:
    segmenter = Segmenter(CONFIGS["hiera"]).eval()
    kept = [0, 1, 3, 6]
    image = torch.randn(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = segmenter.encode(image, StaticPlan(kept, segmenter.encoder))
        fast = accelerate(deepcopy(segmenter))
        got = fast.encode(image, StaticPlan(kept, fast.encoder))
    assert got.blocks.tolist() == expected.blocks.tolist()
    assert_near(got.features, expected.features, 1e-5)


@pytest.mark.parametrize("size", [(96, 64), (70, 64), (129, 33)])
@pytest.mark.parametrize(("window", "pool"), [(8, False), (14, False), (8, True), (0, False)])
def test_strips_are_the_whole(
    size: tuple[int, int], window: int, pool: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempomask.engine.trunk.TOKENS", 1024)
    torch.manual_seed(0)
    if pool:
        size = (size[0] // 2 * 2, size[1] // 2 * 2)
    block = WindowedBlock(12, 24 if pool else 12, 2, window, pool=pool)
    x = torch.randn(2, *size, 12)
    with torch.inference_mode():
        expected = block(x)
        assert_near(StripBlock(block, torch.float32)(x), expected, 1e-5)


@pytest.mark.parametrize("form", [MemoryForm("all"), MemoryForm("none", linear=True)])
def test_forms_that_the_engine_lacks(form: MemoryForm) -> None:
    segmenter = Segmenter(CONFIGS["vit"].with_memory(form))
    with pytest.raises(InputError, match='engine="plain"'):
        accelerate(segmenter)
    assert not segmenter.fast


@pytest.mark.parametrize("size", [(32, 32), (20, 18), (6, 30), (28, 10)])
@pytest.mark.parametrize(("window", "pool"), [(14, False), (14, True), (7, False)])
def test_zeros_beyond_the_map_are_counted(size: tuple[int, int], window: int, pool: bool) -> None:
    torch.manual_seed(0)
    block = WindowedBlock(12, 24 if pool else 12, 2, window, pool=pool)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, *size, 12)
    with torch.inference_mode():
        expected = block.attend(x)
        assert is_ragged(block, *size)
        assert_near(attend_ragged(block, x), expected, 1e-5)
        assert_near(StripBlock(block, torch.float32).attend(x), expected, 1e-5)


@pytest.mark.parametrize("size", [(9, 15), (8, 8)])
def test_windows_that_cannot_be_pooled_apart_hold_zeros(size: tuple[int, int]) -> None:
    block = WindowedBlock(12, 24, 2, 7, pool=True)
    x = torch.randn(1, *size, 12)
    with torch.inference_mode():
        expected = block.attend(x)
        assert not is_ragged(block, *size)
        assert_near(StripBlock(block, torch.float32).attend(x), expected, 1e-5)


@pytest.mark.skipif(
    not can_pack(torch.nn.Linear(2, 2), torch.bfloat16), reason="this torch packs no weights"
)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.bfloat16, 0.02), (torch.float32, 1e-5)], ids=str
)
def test_packed_layers_multiply_and_apply_activations(
    dtype: torch.dtype, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempomask.engine.packed._packs_float32", lambda: True)
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80)
    x = torch.randn(3, 5, 7, 48)
    with torch.inference_mode():
        packed = PackedLinear(layer, dtype)(x.to(dtype))
        assert packed.dtype == dtype
        assert_near(packed, layer(x), tolerance)
        for name in ("gelu", "relu"):
            active = fast_linear(layer, dtype, name)
            assert isinstance(active, PackedLinear)
            expected = getattr(torch.nn.functional, name)(layer(x))
            assert_near(active(x.to(dtype)), expected, tolerance)


@pytest.mark.skipif(
    not can_pack(torch.nn.Linear(2, 2), torch.bfloat16), reason="this torch packs no weights"
)
@pytest.mark.parametrize("bias", [True, False])
def test_few_tokens_stay_exact(bias: bool) -> None:
    """Under autocast too, which would round them; many are multiplied in bfloat16."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(48, 80, bias=bias)
    fast = fast_token_linear(layer, torch.bfloat16)
    few, many = torch.randn(2, 8, 48), torch.randn(2, 9, 48)
    with torch.inference_mode():
        expected = layer(few), layer(many)
        with torch.autocast("cpu", torch.bfloat16):
            got = fast(few), fast(many)
    assert (got[0].dtype, got[1].dtype) == (torch.float32, torch.bfloat16)
    assert_near(got[0], expected[0], 1e-6)
    assert_near(got[1], expected[1], 0.02)


@pytest.mark.parametrize("name", ["gelu", "relu"])
def test_activations_without_packing(name: Activation) -> None:
    layer, x = torch.nn.Linear(4, 6), torch.randn(5, 4)
    with torch.inference_mode():
        got = fast_linear(layer, torch.float32, name)(x)
        assert_near(got, getattr(torch.nn.functional, name)(layer(x)), 1e-6)


@pytest.mark.skipif(
    not can_fuse(torch.empty(1), torch.float32), reason="this torch fuses no convolutions"
)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2)])
@pytest.mark.parametrize("clamped", [True, False])
@pytest.mark.parametrize("groups", [1, 6])
def test_fused_convolutions_pad_and_clamp(
    kernel: int, stride: int, clamped: bool, groups: int
) -> None:
    torch.manual_seed(0)
    layer = SameConv2d(6, 12, kernel, stride, groups=groups)
    x = 9 * torch.randn(2, 6, 10, 14).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = layer(x)
        assert expected.max() > 6 and expected.min() < 0
        expected = torch.nn.functional.relu6(expected) if clamped else expected
        assert_near(FusedConvolution(layer, torch.float32, clamped)(x), expected, 1e-6)


def test_stem_stays_plain_where_nothing_can_be_fused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.backends.mkldnn.is_available", lambda: False)
    stem = accelerate(Segmenter(CONFIGS["nano"])).encoder.stem
    assert type(stem) is ConvolutionalStem


@pytest.mark.usefixtures("kernels")
@torch.inference_mode()
def test_heads_of_a_pruned_block_turn_each_by_its_own_angles() -> None:
    torch.manual_seed(0)
    block = TransformerBlock(16, 2, 2.0)
    block.rotary_frequencies = torch.rand(2, 2, 4)
    x = torch.randn(2, 3, 5, 16)
    expected = block(x)
    assert_near(FastTransformerBlock(block, torch.float32)(x), expected, 1e-5)
    assert_near(FastTransformerBlock(block, torch.bfloat16)(x.bfloat16()), expected, 0.05)
