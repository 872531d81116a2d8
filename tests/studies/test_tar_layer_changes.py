"""Layers run against change: what is noted of a video, and its correlation."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from studies.tar.layer_changes import (
    FrameChange,
    frame_change,
    layer_changes,
    rank_correlation,
)
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.errors import InputError
from tempomask.instances.model import InstanceModel
from tempomask.instances.query_routing import QueryRouterConfig, TemporalQueryRouter
from tempomask.models.instances.segmenter import InstanceSegmenter


def test_change_is_the_mean_squared_difference() -> None:
    dark, bright = np.zeros((2, 3, 3), np.uint8), np.full((2, 3, 3), 255, np.uint8)
    assert frame_change(dark, bright) == frame_change(bright, dark) == 255**2
    one = dark.copy()
    one[0, 0, 0] = 3
    assert frame_change(one, dark) == pytest.approx(9 / 18)


def test_every_frame_but_the_first_is_noted(
    video_set: Callable[..., Path], instance_config: Callable[..., object]
) -> None:
    torch.manual_seed(0)
    router = TemporalQueryRouter(QueryRouterConfig(dim=32, layers=4, hidden_dim=8, num_heads=2))
    with torch.no_grad():
        for module in router.routers:
            module.score.bias.copy_(torch.tensor([9.0, 0.0]))
    model = InstanceModel(InstanceSegmenter(instance_config()), router.eval())  # type: ignore[arg-type]
    dataset = YouTubeVIS(video_set())
    records = layer_changes(model, dataset, (1, 2))
    places = [(r.video, r.step, r.frame) for r in records]
    assert places == [
        (video, step, frame)
        for video in ("video1", "video2")
        for step, frames in ((1, (1, 2, 3, 4)), (2, (2, 4)))
        for frame in frames
    ]
    # All but the warm-up layer are skipped, and the first frame, which runs all, is not noted.
    assert {r.layers for r in records} == {1}
    first, second = dataset.frame(dataset.videos[0], 0), dataset.frame(dataset.videos[0], 2)
    assert records[4].change == frame_change(second, first)
    with pytest.raises(InputError, match="steps"):
        layer_changes(model, dataset, (0,))


def records(layers: list[int]) -> list[FrameChange]:
    """Two videos of ten frames that change more and more."""
    return [
        FrameChange(video, index, 1, float(index**3), count)
        for video in "ab"
        for index, count in enumerate(layers)
    ]


def test_correlation_goes_by_rank() -> None:
    rising = rank_correlation(records(list(range(10))), rounds=50)
    assert (rising.value, rising.low, rising.high, rising.frames) == pytest.approx((1, 1, 1, 20))
    falling = rank_correlation(records([9 - i for i in range(10)]), rounds=50)
    assert falling.value == pytest.approx(-1)


def test_a_router_that_never_changes_has_no_correlation() -> None:
    assert math.isnan(rank_correlation(records([3] * 10), rounds=10).value)
    with pytest.raises(InputError, match="no frames"):
        rank_correlation([])
