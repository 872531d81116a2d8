"""Memory routing in sessions: exact at 1, per object, and whole again for one that was lost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.model import load
from tempomask.models.segmenter import Segmenter
from tempomask.routing.options import Routing
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

Clip = Callable[..., list[NDArray[np.uint8]]]


def tracked(
    segmenter: Segmenter, frames: list[NDArray[np.uint8]], budget: float, **options: int
) -> tuple[NDArray[np.float32], list[list[bool]]]:
    """Logits (T, N, h, w) of three objects, and on which frames each was routed."""
    policy = StaticPlan(range(2), segmenter.encoder)
    policy.memory_budget = budget
    session = Session(segmenter, TrackingOptions(**options), policy=policy)  # type: ignore[arg-type]
    for number in (1, 2, 3):
        session.prompt(object_id=number, points=[(14 * number, 15)], frame=0)
    logits, routed = [], []
    for index, frame in enumerate(frames):
        logits.append(session.step(frame).low_res_logits)
        focus = [o.outputs[index].focus for o in session._state.objects.values()]
        routed.append([f is not None and f.routed for f in focus])
    return np.stack(logits), routed


def test_objects_are_routed_each_by_itself(segmenter: Segmenter, clip: Clip) -> None:
    together, routed = tracked(segmenter, clip(8), 0.5)
    alone, same = tracked(segmenter, clip(8), 0.5, objects_per_batch=1)
    assert routed == same
    assert not any(map(any, routed[:2]))
    assert any(map(any, routed))
    np.testing.assert_allclose(together, alone, atol=2e-3)
    whole, never = tracked(segmenter, clip(8), 1.0)
    assert not any(map(any, never))
    np.testing.assert_array_equal(together[:2], whole[:2])
    assert np.abs(together - whole).max() > 1e-2


def test_a_lost_object_gets_all_tokens_until_it_is_found(
    segmenter: Segmenter, clip: Clip, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Session(segmenter)._frame_step
    encode, index = type(step)._outputs, 0

    def outputs(*args: object) -> object:
        for output in encode(*args):  # type: ignore[arg-type]
            lost = torch.tensor(-9.0) if index in (4, 5) else output.object_score
            yield replace(output, object_score=lost)

    monkeypatch.setattr(type(step), "_outputs", outputs)
    policy = StaticPlan(range(2), segmenter.encoder)
    policy.memory_budget = 0.5
    session = Session(segmenter, policy=policy)
    session.prompt(points=[(15, 15)], frame=0)
    routed = []
    for index, frame in enumerate(clip(9)):
        session.step(frame)
        focus = session._state.objects[1].outputs[index].focus
        routed.append(focus is not None and focus.routed)
    # Frame 7 knows where the object was found, frame 8 also how it moves.
    assert routed[2:5] == [True, True, True]
    assert not any(routed[5:8])
    assert routed[8]


def test_a_model_gives_the_budget_to_its_policy() -> None:
    model = load("nano", device="cpu")
    assert model.policy(Routing()) is None
    policy = model.policy(Routing(memory_budget=0.5))
    assert policy is not None
    assert policy.memory_budget == 0.5
    assert policy.fixed_keep == (True,) * model.network.encoder.num_blocks
    routed = load("nano", device="cpu", adapter="nano-rds").policy(Routing(0.6, memory_budget=0.5))
    assert routed is not None
    assert routed.memory_budget == 0.5
    with pytest.raises(InputError, match="memory_budget 1.5"):
        Routing(memory_budget=1.5)
