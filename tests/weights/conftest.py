"""Named models with very few channels, so that real files of every layout are small."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from tempomask.models.config import (
    SEGMENTERS,
    HieraConfig,
    MaskDecoderConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.segmenter import Segmenter

SIDE = 64
HIERAS = {
    "tiny": HieraConfig(
        embed_dim=8, stages=(1, 1, 2, 1), global_attention_blocks=(3,), position_size=(3, 3)
    ),
    "small": HieraConfig(
        embed_dim=8, stages=(1, 1, 3, 1), global_attention_blocks=(3,), position_size=(3, 3)
    ),
}
VIT = ViTConfig(dim=16, num_heads=2, depth=2, global_attention_blocks=(1,), position_size=3)


def shrink(config: SegmenterConfig) -> SegmenterConfig:
    """The same model with few channels and blocks."""
    size = config.name.split("-")[1]
    return replace(
        config,
        encoder=VIT if isinstance(config.encoder, ViTConfig) else HIERAS[size],
        image_size=SIDE,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(config.memory_attention, layers=1, feedforward_dim=16),
        mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=16, iou_hidden_dim=16),
    )


@pytest.fixture(autouse=True)
def shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """In these tests SAM 2 tiny and small, and EfficientTAM Ti, are shrunk."""
    for name, config in list(SEGMENTERS.items()):
        if name.endswith(("-tiny", "-small")) or name.startswith("efficienttam-ti"):
            monkeypatch.setitem(SEGMENTERS, name, shrink(config))


@pytest.fixture
def make_segmenter(shrunk: None) -> Callable[[str], Segmenter]:
    """A network of the given name in which no two values are equal, and none is zero."""

    def make(name: str) -> Segmenter:
        segmenter = Segmenter(SEGMENTERS[name]).eval()
        generator = torch.Generator().manual_seed(len(name))
        with torch.no_grad():
            for tensor in segmenter.state_dict().values():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        return segmenter

    return make
