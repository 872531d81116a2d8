"""A tiny network of six equal blocks, and calibration data made of noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tempomask.models.config import HybridConfig, MaskDecoderConfig, segmenter_config
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter

SIDE = 64
BLOCKS = 6


def make_segmenter(name: str = "nano", seed: int = 0) -> Segmenter:
    """nano's parts at a few channels; blocks differ in strength, so that they matter unequally."""
    torch.manual_seed(seed)
    nano = segmenter_config("nano")
    config = replace(
        nano,
        name=name,
        encoder=HybridConfig(dim=32, num_heads=2, depth=BLOCKS),
        image_size=SIDE,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(nano.memory_attention, layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=32, iou_hidden_dim=16),
    )
    segmenter = Segmenter(config).eval()
    with torch.no_grad():
        for index, block in enumerate(segmenter.encoder.blocks):
            block.contract.weight.mul_(1 + 3 * ((index * 5) % BLOCKS))  # type: ignore[union-attr]
    return segmenter


class NoiseMeasure:
    """Scores a network by how near its features stay to those of the whole network."""

    def __init__(self, segmenter: Segmenter) -> None:
        self._images = torch.randn(5, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
        self._whole = self._features(segmenter, None)
        self.scored = 0

    @torch.no_grad()
    def _features(self, segmenter: Segmenter, policy: Policy | None) -> Tensor:
        return segmenter.encode(self._images, policy).features

    def score(self, segmenter: Segmenter, policy: Policy | None = None) -> float:
        self.scored += 1
        distance = (self._features(segmenter, policy) - self._whole).square().mean().item()
        return 1 / (1 + distance)

    def images(self, count: int) -> Tensor:
        return self._images[:count]


@pytest.fixture
def segmenter() -> Segmenter:
    return make_segmenter()


@pytest.fixture
def other_model() -> Segmenter:
    return make_segmenter(name="another")


@pytest.fixture
def other_weights() -> Segmenter:
    return make_segmenter(seed=1)


@pytest.fixture
def make_measure() -> Callable[[Segmenter], NoiseMeasure]:
    return NoiseMeasure
