"""Evaluation drives a real session: a tiny random network, every kind of prompt."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.data.davis import Davis
from tempomask.errors import InputWarning
from tempomask.evaluation.vos import evaluate, evaluate_masks
from tempomask.io.images import read_mask
from tempomask.model import Model
from tempomask.models.config import (
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions

CONFIG = SegmenterConfig(
    name="toy",
    encoder=HybridConfig(dim=32, num_heads=2, depth=2),
    image_size=64,
    hidden_dim=32,
    memory_dim=16,
    memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32),
    mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
)


@pytest.fixture(scope="module")
def model() -> Model:
    torch.manual_seed(0)
    return Model(Segmenter(CONFIG))


@pytest.mark.parametrize("prompt", ["mask", "box", "click", "3clicks", "5clicks"])
def test_every_prompt(
    davis: Callable[..., Path], clip: Callable[..., Any], model: Model, prompt: Any, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(4, objects=2)), tmp_path / "out"
    summary = evaluate(model, Davis(root), prompt=prompt, out=out)
    assert 0 <= summary.mean <= 100
    assert (summary.objects, summary.frames, summary.blocks_run) == (2, 4, 1.0)
    assert evaluate_masks(Davis(root), out).mean == summary.mean


def test_equals_tracking_by_hand(
    davis: Callable[..., Path], clip: Callable[..., Any], model: Model, tmp_path: Path
) -> None:
    truth = clip(4, objects=2)
    root, out = davis(cow=truth), tmp_path / "out"
    evaluate(model, Davis(root), out=out)
    prompts = [Prompt(0, k, mask=truth[0] == k) for k in (1, 2)]
    tracked = []
    for result in model.track(root / "JPEGImages" / "480p" / "cow", prompts):
        written = read_mask(out / "masks" / "cow" / f"{result.index:05d}.png")
        assert np.array_equal(written, result.label_map())
        tracked.append(result.index)
    assert tracked == [0, 1, 2, 3]


def test_clicks_are_not_warned_of(
    davis: Callable[..., Path], clip: Callable[..., Any], model: Model
) -> None:
    root = davis(cow=clip(4))
    session = model.session(options=TrackingOptions())
    session.prompt(points=[(3, 3)])
    with pytest.warns(InputWarning, match="can mean several things"):
        session.step(next(iter(next(iter(Davis(root))).frames())))
    quiet = TrackingOptions(warn_of_clicks=False)
    assert quiet == TrackingOptions() and quiet.settings() == TrackingOptions().settings()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        evaluate(model, Davis(root), prompt="click", options=TrackingOptions())


def test_settings_tell_the_policy(
    davis: Callable[..., Path], clip: Callable[..., Any], model: Model
) -> None:
    plan = StaticPlan([1], model.segmenter.encoder)
    summary = evaluate(model, Davis(davis(cow=clip(4))), routing=plan)
    assert summary.settings["policy"] == "StaticPlan([1])" and summary.blocks_run == 0.5
