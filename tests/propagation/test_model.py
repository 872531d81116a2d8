"""Routers of label propagation: those of the model whose encoder propagates, and none elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

import tempomask
from tempomask.devices import DTypeName
from tempomask.engine.trunk import FastTrunk
from tempomask.errors import InputError
from tempomask.model import Model, RoutingChoice
from tempomask.models.config import HieraConfig, HybridConfig, ViTConfig, segmenter_config
from tempomask.models.encoder import Policy
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.propagation.model import Propagator, load_propagator
from tempomask.propagation.options import PropagationOptions
from tempomask.routing.options import Routing
from tempomask.routing.static import StaticPlan

FRAMES = list(np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8))
TALL = [frame.swapaxes(0, 1) for frame in FRAMES]
PROMPT = Prompt(mask=np.eye(64, 96, dtype=bool))
SMALL = PropagationOptions(short_side=64)
HIERA = HieraConfig(8, 1, (1, 1, 2, 1), (3,), window_sizes=(8, 4, 6, 3), position_size=(5, 5))
VIT = ViTConfig(16, 2, 2, global_attention_blocks=(1,), window_size=3, position_size=5)


class Routed:
    """What a propagator needs of a model with an adapter."""

    adapter = "that of the model"

    def __init__(self, encoder: HybridEncoder) -> None:
        self.encoder = encoder
        self.asked: list[tuple[RoutingChoice, bool | None]] = []

    def policy(
        self, routing: RoutingChoice = None, *, count_waiting: bool | None = None
    ) -> Policy | None:
        self.asked.append((routing, count_waiting))
        return None if routing is None else StaticPlan([1], self.encoder)


@pytest.fixture
def encoder() -> HybridEncoder:
    return HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=2))


def test_the_model_of_the_encoder_is_asked_for_a_policy(encoder: HybridEncoder) -> None:
    model = Routed(encoder)
    propagator = Propagator(encoder, "nano", SMALL, model=cast(Model, model))
    assert propagator.adapter == model.adapter
    results = list(propagator.track(FRAMES, PROMPT, routing=0.6))
    assert [result.blocks.tolist() for result in results] == [[False, True]] * 3
    assert model.asked == [(0.6, True)]
    plain = list(propagator.track(FRAMES, PROMPT))
    assert all(result.blocks.all() for result in plain) and len(model.asked) == 2
    mine = Propagator(encoder, "nano", SMALL).session(routing=StaticPlan([0], encoder))
    mine.add(PROMPT)
    assert mine.step(FRAMES[0]).blocks.tolist() == [True, False]


def test_a_frame_rate_counts_waiting_where_a_model_does(encoder: HybridEncoder) -> None:
    """Reading and writing count for videos that are there, not for what comes when it comes."""
    model = Routed(encoder)
    propagator = Propagator(encoder, "nano", SMALL, model=cast(Model, model))
    wish = Routing(fps=5.0)
    propagator.track(FRAMES, PROMPT, routing=wish)
    propagator.track(iter(FRAMES), PROMPT, routing=wish)
    propagator.session(routing=wish)
    assert [waiting for _, waiting in model.asked] == [True, False, False]


@pytest.mark.parametrize(
    "wish", [Routing(router="rds"), 0.6, Routing(fps=5.0), Routing(rule="stochastic")], ids=str
)
def test_an_encoder_alone_has_no_router(encoder: HybridEncoder, wish: RoutingChoice) -> None:
    propagator = Propagator(encoder, "dinov3-vits16", SMALL)
    assert propagator.adapter is None and propagator.policy() is None
    with pytest.raises(InputError, match="dinov3-vits16 has no router"):
        propagator.session(routing=wish)


@pytest.mark.parametrize("encoder_config", [HIERA, VIT], ids=["hiera", "vit"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loaded_models_take_images_of_any_aspect(
    encoder_config: HieraConfig | ViTConfig, dtype: DTypeName, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the fast engine, whose usual images are squares of another size."""
    torch.manual_seed(0)
    config = replace(segmenter_config("sam2.1-tiny"), encoder=encoder_config, image_size=128)
    monkeypatch.setattr("tempomask.model.load_segmenter", lambda *_: Segmenter(config).eval())
    propagator = load_propagator("sam2.1-tiny", short_side=64, device="cpu", dtype=dtype)
    assert isinstance(propagator.encoder, FastTrunk)
    for frames, prompt in ((FRAMES, PROMPT), (TALL, Prompt(mask=np.eye(96, 64, dtype=bool)))):
        results = list(propagator.track(frames, prompt))
        assert len(results) == 3 and results[0].masks.sum() == 64
        assert np.isfinite(results[-1].low_res_logits).all()


def test_names_and_adapters(tmp_path: Path) -> None:
    assert tempomask.load_propagator is load_propagator and tempomask.Propagator is Propagator
    with pytest.raises(InputError, match="is for a segmenter"):
        load_propagator("dinov3-vits16", adapter=tmp_path)
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_propagator("nano", checkpoint=tmp_path / "nothing.safetensors")
    loaded = load_propagator(device="cpu", dtype="float32")
    assert loaded.config == PropagationOptions() and loaded.adapter is None
