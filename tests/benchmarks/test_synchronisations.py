"""Where the host waits for an accelerator, and that a tracked frame hardly does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.speed.synchronisations import Synchronisations
from tempomask.engine import accelerate
from tempomask.models.config import (
    HieraConfig,
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
    ViTConfig,
)
from tempomask.models.segmenter import Segmenter
from tempomask.routing.adaptive import AdaptiveBudget, AdaptiveConfig
from tempomask.routing.budget import BudgetControl, FixedBudget, TopK
from tempomask.routing.latency import LatencyBudget, LatencyConfig
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

SIDE = 64
BASE = SegmenterConfig(
    name="toy",
    encoder=HybridConfig(dim=32, num_heads=2, depth=3),
    image_size=SIDE,
    hidden_dim=32,
    memory_dim=16,
    memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32, image_keys=True),
    mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
)
WITHOUT = replace(BASE, memory_attention=replace(BASE.memory_attention, image_keys=False))
HIERA = HieraConfig(
    embed_dim=16, stages=(1, 2, 3, 1), global_attention_blocks=(4,), position_size=(5, 5)
)
VIT = ViTConfig(dim=32, num_heads=2, depth=3, global_attention_blocks=(1,), window_size=3)
POOLED = replace(WITHOUT.memory_attention, pooling="eq6")
CONFIGS = {
    "nano": BASE,
    "sam2": replace(WITHOUT, encoder=HIERA),
    "efficienttam": replace(WITHOUT, encoder=VIT, high_resolution=False, memory_attention=POOLED),
}
FRAME = np.zeros((48, 80, 3), np.uint8)


def stand_in(name: str, fast: bool = True) -> Segmenter:
    """A network on the device that stands in for an accelerator."""
    segmenter = Segmenter(CONFIGS[name]).eval()
    segmenter = segmenter.to("meta")
    # As on a device: moved there first.
    return accelerate(segmenter) if fast else segmenter


def routed(name: str, control: BudgetControl) -> RecurrentPolicy:
    encoder = Segmenter(CONFIGS[name]).encoder
    router = PredictiveRouter(RouterConfig.for_encoder(encoder)).eval().to("meta")
    return RecurrentPolicy(router, control, TopK())


def track(session: Session, frames: int = 4) -> list[str]:
    """Operations that the last of so many frames waits for; nobody looks at its result."""
    with Synchronisations() as waits:
        session.prompt(object_id=1, box=(10, 10, 40, 40))
        session.prompt(object_id=2, points=[(20, 20)])
        for _ in range(frames):
            before = len(waits.found)
            session.step(FRAME)
    return [f"{found.operation} in {found.where.split(':')[0]}" for found in waits.found[before:]]


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", CONFIGS)
def test_a_frame_waits_for_nothing(name: str, static: bool) -> None:
    session = Session(stand_in(name), TrackingOptions(static_memory=static))
    assert track(session) == []


def test_nor_does_one_of_the_plain_network() -> None:
    assert track(Session(stand_in("nano", fast=False))) == []


ROUTER = "copy to the host in routing/recurrent.py"
RESULT = "copy to the host in tracking/state.py"


@pytest.mark.parametrize("name", CONFIGS)
def test_a_routed_frame_waits_once(name: str) -> None:
    policy = routed(name, FixedBudget(0.9))
    assert track(Session(stand_in(name), policy=policy)) == [ROUTER]


@pytest.mark.parametrize(
    ("control", "also"),
    [
        (LatencyBudget(LatencyConfig(30.0, 0.5)), []),
        # Their beta depends on a frame's results, or on when these are there.
        (LatencyBudget(LatencyConfig(30.0, 0.5, count_waiting=False)), [RESULT, RESULT]),
        (AdaptiveBudget(AdaptiveConfig(0.8, 0.5)), [RESULT, RESULT]),
    ],
)
def test_some_budgets_wait_for_the_result(control: BudgetControl, also: list[str]) -> None:
    session = Session(stand_in("nano"), policy=routed("nano", control))
    assert track(session) == [ROUTER, *also]


def test_a_result_is_copied_when_it_is_read() -> None:
    session = Session(stand_in("nano"))
    with Synchronisations() as waits:
        session.prompt(box=(10, 10, 40, 40))
        result = session.step(FRAME)
        before = len(waits.found)
        assert result.object_ids == (1,) and result.blocks.all()
        assert len(waits.found) == before
        assert result.masks.shape == (1, 48, 80)
        assert len(waits.found) == before + 2
        assert result.predicted_iou.shape == result.object_scores.shape == (1,)
        assert len(waits.found) == before + 2


Action = Callable[[Tensor], object]
WAITS: dict[str, tuple[Action, int]] = {
    "cpu": (lambda x: x.cpu(), 1),
    "item": (lambda x: x.sum().item(), 1),
    "tolist": (lambda x: x.tolist(), 1),
    "truth": (lambda x: bool(x.sum() > 0), 1),
    "number": (lambda x: float(x[0, 0]), 1),
    "from values": (lambda x: torch.tensor([1.0], device=x.device), 1),
    "from host memory": (lambda x: torch.ones(2).to(x.device), 1),
    "written from the host": (lambda x: x[0].copy_(torch.ones(3)), 1),
    "not waited for": (lambda x: torch.ones(2).to(x.device, non_blocking=True), 0),
    "mask as index": (lambda x: x[x > 0], 1),
    "mask as index, written": (lambda x: x.__setitem__(x > 0, torch.ones_like(x[0])), 1),
    "nonzero": (lambda x: x.nonzero(), 1),
    "repeat by counts": (lambda x: x.repeat_interleave(torch.ones_like(x[0]).long(), 0), 1),
    "repeat": (lambda x: x.repeat_interleave(2, 0), 0),
    "numbers as index": (lambda x: x[torch.arange(2, device=x.device)], 0),
    "arithmetic": (lambda x: torch.where(x > 0, x, 1.0).argmax(dim=0), 0),
    "on the device": (lambda x: x.to(torch.float16).clone(), 0),
}


@pytest.mark.parametrize("name", WAITS)
def test_what_counts(name: str) -> None:
    act, expected = WAITS[name]
    for mode in (torch.inference_mode(), torch.no_grad()):
        x = torch.empty(3, 3, device="meta")
        with mode, Synchronisations() as waits:
            try:
                act(x)
            except (NotImplementedError, RuntimeError):
                # The stand-in has no shape that depends on values; it counts before it gives up.
                assert expected
        assert len(waits.found) == expected
        assert all(found.where.startswith("test_synchronisations.py") for found in waits.found)


def test_the_host_may_ask_itself() -> None:
    x = torch.arange(4.0)
    with Synchronisations() as waits:
        assert x.cpu().tolist() == [0.0, 1.0, 2.0, 3.0] and x[x > 1].sum().item() == 5.0
    assert waits.found == []
