"""Routers of label propagation: those of the model whose encoder propagates, and none elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

import tempomask
from tempomask.api import Model
from tempomask.errors import InputError
from tempomask.models.config import HybridConfig
from tempomask.models.encoder import Policy
from tempomask.models.hybrid import HybridEncoder
from tempomask.propagation_api import Propagator, load_propagator
from tempomask.routing.recurrent import Routing
from tempomask.routing.static import StaticPlan
from tempomask.tracking.label_propagation import PropagationConfig
from tempomask.types import Prompt

FRAMES = list(np.random.default_rng(0).integers(0, 255, (3, 64, 96, 3), dtype=np.uint8))
PROMPT = Prompt(mask=np.eye(64, 96, dtype=bool))
SMALL = PropagationConfig(short_side=64)


class Routed:
    """What a propagator needs of a model with an adapter."""

    routers = "those of the adapter"

    def __init__(self, encoder: HybridEncoder) -> None:
        self.encoder = encoder
        self.asked: list[tuple[str, Routing | None]] = []

    def policy(self, router: str = "auto", routing: Routing | None = None) -> Policy | None:
        self.asked.append((router, routing))
        return StaticPlan([1], self.encoder)


@pytest.fixture
def encoder() -> HybridEncoder:
    return HybridEncoder(HybridConfig(dim=16, num_heads=2, depth=2))


def test_the_model_of_the_encoder_is_asked_for_a_policy(encoder: HybridEncoder) -> None:
    model = Routed(encoder)
    propagator = Propagator(encoder, "nano", SMALL, model=cast(Model, model))
    assert propagator.routers == model.routers
    results = list(propagator.track(FRAMES, PROMPT, router="rds", budget=0.6))
    assert [result.blocks.tolist() for result in results] == [[False, True]] * 3
    assert model.asked == [("rds", Routing(0.6, count_waiting=False))]
    mine = propagator.session(policy=StaticPlan([0], encoder))
    mine.add(PROMPT)
    assert mine.step(FRAMES[0]).blocks.tolist() == [True, False] and len(model.asked) == 1


def wishes() -> list[dict[str, Any]]:
    return [{"router": "rds"}, {"budget": 0.6}, {"fps": 5.0}, {"rule": "stochastic"}]


@pytest.mark.parametrize("wish", wishes(), ids=str)
def test_an_encoder_alone_has_no_router(encoder: HybridEncoder, wish: dict[str, Any]) -> None:
    propagator = Propagator(encoder, "dinov3-vits16", SMALL)
    assert propagator.routers is None and propagator.policy() is None
    with pytest.raises(InputError, match="dinov3-vits16 has no router"):
        propagator.session(**wish)


def test_names_and_adapters(tmp_path: Path) -> None:
    assert tempomask.load_propagator is load_propagator and tempomask.Propagator is Propagator
    with pytest.raises(InputError, match="is for a segmenter; dinov3-vits16 takes none"):
        load_propagator("dinov3-vits16", adapter=tmp_path)
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_propagator("nano", checkpoint=tmp_path / "nothing.safetensors")
    loaded = load_propagator(device="cpu", dtype="float32")
    assert loaded.config == PropagationConfig() and loaded.routers is None
