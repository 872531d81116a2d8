"""Fixtures that tests of several folders share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tempomask.models.instances.config import (
    InstanceConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    ReferringTrackerConfig,
    ResNetConfig,
    SwinConfig,
)

MakeInstanceConfig = Callable[..., InstanceConfig]


@pytest.fixture(scope="session")
def instance_config() -> MakeInstanceConfig:
    """A maker of small instance segmenters: R50 or Swin, with or without DVIS++'s tracker."""

    def make(swin: bool = False, tracker: bool = False) -> InstanceConfig:
        return InstanceConfig(
            name="tiny",
            backbone=SwinConfig(12, (2, 1, 2, 2), (1, 2, 3, 4), 4)
            if swin
            else ResNetConfig(8, (16, 32, 48, 64), (1, 2, 1, 1)),
            classes=("cat", "dog", "fox"),
            hidden_dim=32,
            pixel_decoder=PixelDecoderConfig(2, 4, 16, 4),
            query_decoder=QueryDecoderConfig(4, 4, 16, 7),
            referring_tracker=ReferringTrackerConfig(2, 4, 16, 24) if tracker else None,
            short_side=64,
            long_side=128,
        )

    return make
