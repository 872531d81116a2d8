"""One batch of objects with equal layouts gives what each object gives alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.prompts import Prompt
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session
from tempomask.tracking.state import Clicks, Request

NETWORKS = ["segmenter", "segmenter_with_image_keys", "segmenter_without_pointer_time"]
FIRST = {1: 0, 2: 3, 3: 5}


@pytest.fixture(scope="module", params=NETWORKS)
def session(request: pytest.FixtureRequest, clip: Callable) -> Session:
    """Three objects that came at different times, long enough ago for equally many memories."""
    network = request.getfixturevalue(request.param)
    session = Session(network, TrackingOptions(memory_dtype="float32"))
    for object_id, frame in FIRST.items():
        session.add(Prompt(frame, object_id, points=[(12 * object_id, 14)]))
    for frame in clip(24):
        session.step(frame)
    return session


def tracking_requests(session: Session) -> list[Request]:
    return [
        Request(selection=session._frame_step.selector.select(tracked.bank, 23, False))
        for tracked in session._state.objects.values()
    ]


def segment(session: Session, requests: list[Request]) -> list[Any]:
    frames = session._state.frames
    """One output for each request, as no rule here keeps rivals."""
    found = session._frame_step.segment(frames.encoded(23), requests, frames.images)
    return [output for (output,) in found]


def assert_close(together: list[Any], alone: list[Any]) -> None:
    for one, other in zip(together, alone, strict=True):
        for name in ("logits", "shown", "object_score", "predicted_iou", "pointer"):
            torch.testing.assert_close(
                getattr(one, name), getattr(other, name), atol=1e-4, rtol=1e-4
            )


@torch.inference_mode()
def test_objects_that_came_at_different_times_share_a_batch(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = tracking_requests(session)
    alone = [segment(session, [request])[0] for request in requests]
    network, made = session.segmenter, []
    attend = network.attend
    monkeypatch.setattr(
        network, "attend", lambda *inputs: (made.append(inputs[1]), attend(*inputs))[1]
    )
    assert_close(segment(session, requests), alone)
    (memory,) = made
    assert memory.spatial.shape[:2] == (3, 7) and memory.pointers.shape[:2] == (3, 16)
    assert memory.pointer_distance.shape == (3, 16)
    distances = [(23 - first) / 15 for first in FIRST.values()]
    np.testing.assert_allclose(memory.pointer_distance[:, 0], distances, rtol=1e-6)
    keyed = network.config.memory_attention.image_keys
    assert (memory.images.shape[:2] == (3, 7)) if keyed else memory.images is None


@torch.inference_mode()
def test_every_kind_of_request_at_once(session: Session) -> None:
    clicks = Clicks(np.array([[20, 30], [5, 5]], np.float32), np.array([1, 0]))
    mask = torch.zeros(64, 64)
    mask[10:30, 10:30] = 1
    first, second, third = tracking_requests(session)
    requests = [
        first,
        Request(initial=True, mask=mask),
        Request(initial=True, clicks=clicks),
        Request(selection=second.selection, clicks=clicks, previous=torch.randn(16, 16) * 90),
        third,
        Request(initial=True, clicks=clicks),
    ]
    together = segment(session, requests)
    assert_close(together, [segment(session, [request])[0] for request in requests])
    assert [o.prompted for o in together] == [False, True, True, True, False, True]
    assert [o.initial for o in together] == [False, True, True, False, False, True]


@torch.inference_mode()
def test_logits_fed_back_are_held_within_32(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    clicks = Clicks(np.array([[20, 30]], np.float32), np.array([1]))
    previous = torch.linspace(-1024, 90, 256).reshape(16, 16)
    decode, seen = session.segmenter.decode, []
    monkeypatch.setattr(
        session.segmenter, "decode", lambda *a, **k: (seen.append(a[4]), decode(*a, **k))[1]
    )
    segment(session, [Request(initial=True, clicks=clicks, previous=previous)])
    assert torch.equal(seen[0][0, 0], previous.clamp(-32, 32))


@torch.inference_mode()
def test_memories_of_a_batch(session: Session) -> None:
    outputs = segment(session, tracking_requests(session))
    features = session._state.frames.encoded(23).features
    together = session._frame_step.encode_memory(features, outputs)
    for memory, output in zip(together, outputs, strict=True):
        (alone,) = session._frame_step.encode_memory(features, [output])
        torch.testing.assert_close(memory, alone, atol=1e-4, rtol=1e-4)
        # What is remembered of one object does not keep the others' share of the batch alive.
        for kept in (memory, output.pointer):
            assert kept.untyped_storage().nbytes() == kept.nbytes


def test_the_fixture_has_one_layout(session: Session) -> None:
    layouts = {
        session._frame_step._memory_layout(request) for request in tracking_requests(session)
    }
    assert layouts == {((6, 5, 4, 3, 2, 1, 0), 16, False)}
