"""The rearranged instance segmenter computes what the plain one does."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tempomask.instances.fast import accelerate_instances
from tempomask.models.instances.config import NANO_VIS, QueryDecoderConfig
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.ops.layers import ConvolutionNorm, FrozenBatchNorm

MakeConfig = Callable[..., Any]


def segmenter(config: Any) -> InstanceSegmenter:
    """Random weights, and norms that really shift and scale."""
    torch.manual_seed(0)
    made = InstanceSegmenter(config).eval()
    for module in made.modules():
        if isinstance(module, FrozenBatchNorm):
            module.weight.uniform_(0.5, 1.5)
            module.bias.normal_(std=0.3)
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.3, 2.0)
    return made


def frames(model: InstanceSegmenter, images: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Class and mask logits of frames of one video, by track."""
    state, found = None, []
    reduced = dtype != torch.float32
    with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=reduced):
        for image in images:
            tracked, state = model.step(image[None], state)
            found += [x.float() for x in tracked.predictions]
    return found


@pytest.mark.parametrize(("swin", "tracker"), [(False, False), (True, False), (False, True)])
def test_float32_is_the_same(instance_config: MakeConfig, swin: bool, tracker: bool) -> None:
    plain = segmenter(instance_config(swin=swin, tracker=tracker))
    fast = accelerate_instances(deepcopy(plain))
    assert not any(isinstance(module, ConvolutionNorm) for module in fast.modules())
    images = torch.randn(3, 3, 64, 96)
    for own, wanted in zip(
        frames(fast, images, torch.float32), frames(plain, images, torch.float32), strict=True
    ):
        torch.testing.assert_close(own, wanted, atol=2e-4, rtol=2e-4)


@pytest.mark.parametrize("kind", ["resnet", "swin", "stem", "dvis"])
def test_bfloat16_is_as_near_as_autocast(instance_config: MakeConfig, kind: str) -> None:
    config = instance_config(swin=kind == "swin", tracker=kind == "dvis")
    if kind == "stem":
        config = replace(NANO_VIS, query_decoder=QueryDecoderConfig(2, 4, 16, 7))
    plain = segmenter(config)
    fast = accelerate_instances(deepcopy(plain), torch.bfloat16)
    image = torch.randn(1, 3, 64, 96)
    exact = frames(plain, image, torch.float32)
    autocast = frames(plain, image, torch.bfloat16)
    for own, other, wanted in zip(
        frames(fast, image, torch.bfloat16), autocast, exact, strict=True
    ):
        error, usual = (own - wanted).abs().mean(), (other - wanted).abs().mean()
        assert error <= 2 * usual + 1e-3


def test_the_plain_segmenter_is_left_alone(instance_config: MakeConfig) -> None:
    plain = segmenter(instance_config())
    before = {name: x.clone() for name, x in plain.state_dict().items()}
    accelerate_instances(deepcopy(plain), torch.bfloat16)
    after = plain.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(x, after[name]) for name, x in before.items())


def test_folding_reads_the_norm(instance_config: MakeConfig) -> None:
    """By hand, as torch's formula has it."""
    from tempomask.engine.folded import folded

    layer = segmenter(instance_config()).network.backbone.stem
    assert isinstance(layer, ConvolutionNorm)
    x = torch.randn(2, 3, 9, 9)
    norm = layer.norm
    y = nn.functional.conv2d(x, layer.conv.weight, None, 2, 3)
    shape = (1, -1, 1, 1)
    y = (y - norm.running_mean.view(shape)) / (norm.running_var.view(shape) + 1e-5).sqrt()
    wanted = y * norm.weight.view(shape) + norm.bias.view(shape)
    torch.testing.assert_close(folded(layer)(x), wanted, atol=1e-5, rtol=1e-4)
