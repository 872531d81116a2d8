"""Routers of label propagation: those of the model whose encoder propagates, and none elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import tempomask
from tempomask.adaptation.method import LoadedAdapter
from tempomask.devices import DTypeName
from tempomask.engine.trunk import FastTrunk
from tempomask.errors import InputError
from tempomask.models.config import HieraConfig, HybridConfig, ViTConfig, segmenter_config
from tempomask.models.encoder import Policy
from tempomask.models.hybrid import HybridEncoder
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.propagation.model import Propagator, load_propagator
from tempomask.propagation.network import PatchEncoder
from tempomask.propagation.options import PropagationOptions
from tempomask.routed_model import RoutingChoice
from tempomask.routing.options import Routing
from tempomask.routing.static import StaticPlan

FRAMES = list(np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8))
TALL = [frame.swapaxes(0, 1) for frame in FRAMES]
PROMPT = Prompt(mask=np.eye(64, 96, dtype=bool))
SMALL = PropagationOptions(short_side=64)
HIERA = HieraConfig(8, 1, (1, 1, 2, 1), (3,), window_sizes=(8, 4, 6, 3), position_size=(5, 5))
VIT = ViTConfig(16, 2, 2, global_attention_blocks=(1,), window_size=3, position_size=5)


@pytest.fixture
def network() -> PatchEncoder:
    return PatchEncoder(HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=2)), "nano")


class Asked:
    """Makes a policy that runs the second block, and notes what was asked for."""

    def __init__(self, network: PatchEncoder) -> None:
        self.wishes: list[Routing] = []
        self.adapter = LoadedAdapter(network, self.make, "rds")

    def make(self, routing: Routing) -> Policy:
        self.wishes.append(routing)
        return StaticPlan([1], self.adapter.network.encoder)


def test_the_adapter_is_asked_for_a_policy(network: PatchEncoder) -> None:
    asked = Asked(network)
    propagator = Propagator(network, adapter=asked.adapter, options=SMALL)
    results = list(propagator.track(FRAMES, PROMPT, routing=0.6))
    assert [result.blocks.tolist() for result in results] == [[False, True]] * 3
    assert asked.wishes == [Routing(0.6, count_waiting=True)]
    plain = list(propagator.track(FRAMES, PROMPT, routing=Routing(router="none")))
    assert all(result.blocks.all() for result in plain) and len(asked.wishes) == 1
    mine = propagator.session(routing=StaticPlan([0], network.encoder))
    mine.add(PROMPT)
    assert mine.step(FRAMES[0]).blocks.tolist() == [True, False] and len(asked.wishes) == 1


def test_a_frame_rate_counts_waiting_where_a_model_does(network: PatchEncoder) -> None:
    """Reading and writing count for videos that are there, not for what comes when it comes."""
    asked = Asked(network)
    propagator = Propagator(network, adapter=asked.adapter, options=SMALL)
    wish = Routing(fps=5.0)
    propagator.track(FRAMES, PROMPT, routing=wish)
    propagator.track(iter(FRAMES), PROMPT, routing=wish)
    propagator.session(routing=wish)
    assert [wish.count_waiting for wish in asked.wishes] == [True, False, False]


@pytest.mark.parametrize(
    "wish", [Routing(router="rds"), 0.6, Routing(fps=5.0), Routing(rule="stochastic")], ids=str
)
def test_without_an_adapter_there_is_no_router(network: PatchEncoder, wish: RoutingChoice) -> None:
    propagator = Propagator(network, options=SMALL)
    assert propagator.adapter is None and propagator.policy() is None
    with pytest.raises(InputError, match="router"):
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
    assert isinstance(propagator.network.encoder, FastTrunk)
    for frames, prompt in ((FRAMES, PROMPT), (TALL, Prompt(mask=np.eye(96, 64, dtype=bool)))):
        results = list(propagator.track(frames, prompt))
        assert len(results) == 3 and results[0].masks.sum() == 64
        assert np.isfinite(results[-1].low_res_logits).all()


def test_names_and_adapters(tmp_path: Path) -> None:
    assert tempomask.load_propagator is load_propagator and tempomask.Propagator is Propagator
    with pytest.raises(InputError, match="adapter"):
        load_propagator("dinov3-vits16", adapter=tmp_path)
    with pytest.raises(InputError, match="checkpoint"):
        load_propagator("nano", checkpoint=tmp_path / "nothing.safetensors")
    loaded = load_propagator(device="cpu", dtype="float32")
    assert loaded.options == PropagationOptions() and loaded.adapter is None
