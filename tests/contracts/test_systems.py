"""Every model that `tempomask models` lists tracks the bundled clip, a few channels wide."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tempomask.instances.model import InstanceModel
from tempomask.matching.model import Matcher
from tempomask.matching.options import MatchingOptions
from tempomask.model import Model
from tempomask.models.config import (
    SEGMENTERS,
    EncoderConfig,
    HieraConfig,
    HybridConfig,
    PerceiverConfig,
    RepViTConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.instances.config import (
    INSTANCE_SEGMENTERS,
    BackboneConfig,
    InstanceConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    RefinerConfig,
    ResNetConfig,
    StemConfig,
    SwinConfig,
    ViTAdapterConfig,
)
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.models.matching.config import MATCHERS
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.weights import zoo
from tempomask.weights.matching import build_matcher

CLIP, SIZE, FRAMES = zoo.ASSETS / "clip" / "clip.mp4", (360, 640), range(4)
ENCODERS: dict[type, EncoderConfig] = {
    HieraConfig: HieraConfig(embed_dim=16, stages=(1, 1, 2, 1), global_attention_blocks=(3,)),
    ViTConfig: ViTConfig(dim=32, num_heads=2, depth=2, global_attention_blocks=(1,)),
    HybridConfig: HybridConfig(dim=32, num_heads=2, depth=2),
    RepViTConfig: RepViTConfig((1, 1, 2, 1), (8, 16, 24, 32)),
}
BACKBONES: dict[type, BackboneConfig] = {
    ResNetConfig: ResNetConfig(8, (8, 16, 24, 32), (1, 1, 1, 1)),
    SwinConfig: SwinConfig(8, (1, 1, 1, 1), (1, 1, 2, 2), 3),
    StemConfig: StemConfig(),
    ViTAdapterConfig: ViTAdapterConfig(16, 4, 2, 16, 4, 2, 0.5, 8, 3),
}


def narrow(config: SegmenterConfig) -> SegmenterConfig:
    """The same system with few channels and layers, at a small size."""
    return replace(
        config,
        encoder=ENCODERS[type(config.encoder)],
        image_size=64,
        hidden_dim=32,
        memory_dim=16,
        perceiver=config.perceiver and PerceiverConfig(1, 4, 2),
        memory_attention=replace(config.memory_attention, layers=1, feedforward_dim=32),
        mask_decoder=replace(config.mask_decoder, num_heads=2, feedforward_dim=32),
    )


def narrow_instances(config: InstanceConfig) -> InstanceConfig:
    """The same for instances."""
    referring, memory = config.referring_tracker, config.memory_tracker
    return replace(
        config,
        backbone=BACKBONES[type(config.backbone)],
        hidden_dim=32,
        pixel_decoder=PixelDecoderConfig(1, 2, 32, 2),
        query_decoder=QueryDecoderConfig(2, 2, 32, 6),
        referring_tracker=referring
        and replace(
            referring, layers=1, num_heads=2, feedforward_dim=32, reid_dim=referring.reid_dim and 16
        ),
        memory_tracker=memory and replace(memory, reid_dim=16),
        refiner=config.refiner and RefinerConfig(1, 2, 32),
        short_side=64,
    )


def results(name: str) -> Iterator[object]:
    """What the system says of the first frames; objects are marked as it takes them."""
    mask = np.zeros(SIZE, dtype=bool)
    mask[40:120, 60:160] = True
    if name in SEGMENTERS:
        model = Model(Segmenter(narrow(SEGMENTERS[name])).eval(), torch.float32)
        prompts = [Prompt(0, 1, points=[(100, 80)]), Prompt(0, 2, box=(200, 60, 300, 200))]
        return iter(model.track(CLIP, prompts, frames=FRAMES))
    if name in MATCHERS:
        matcher = Matcher(build_matcher(MATCHERS[name]), options=MatchingOptions(short_side=64))
        return iter(matcher.track(CLIP, Prompt(mask=mask), frames=FRAMES))
    network = InstanceSegmenter(narrow_instances(INSTANCE_SEGMENTERS[name])).eval()
    return iter(InstanceModel(network).track(CLIP, frames=FRAMES))


def test_no_listed_system_is_left_out() -> None:
    listed = {*zoo.MODELS, *zoo.MATCHING_MODELS, *zoo.INSTANCE_MODELS}
    assert listed <= {*SEGMENTERS, *MATCHERS, *INSTANCE_SEGMENTERS}


@pytest.mark.parametrize("name", [*SEGMENTERS, *MATCHERS, *INSTANCE_SEGMENTERS])
def test_every_system_tracks_the_bundled_clip(name: str) -> None:
    torch.manual_seed(0)
    with torch.inference_mode():
        found = list(results(name))
    assert [result.index for result in found] == list(FRAMES)  # type: ignore[attr-defined]
    for result in found:
        masks = result.masks  # type: ignore[attr-defined]
        assert masks.dtype == bool and masks.shape[1:] == SIZE
