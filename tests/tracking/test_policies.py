"""What a session tells a policy: the union of the last masks, and which video it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.models.encoder import KeepPlan, Plan, Policy
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.routing.budget import FixedBudget, TopK
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.routing.recurrent import RecurrentPolicy
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import track
from tempomask.tracking.session import Session

Clip = Callable[..., list[NDArray[np.uint8]]]
HEIGHT, WIDTH = 48, 80


class Watcher(Policy):
    """Runs everything, and writes down all that a session tells it."""

    recurrent = True
    reads_results = True  # type: ignore[assignment]

    def __init__(self, log: list[Any]) -> None:
        self.log = log

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> Plan:
        self.log.append(None if previous_masks is None else previous_masks.clone())
        return KeepPlan([True, True])

    def fresh(self) -> Watcher:
        self.log.append("fresh")
        return Watcher(self.log)

    def begin_frame(self) -> None:
        self.log.append("begin")

    def end_frame(self, predicted_iou: NDArray[Any], object_scores: NDArray[Any]) -> None:
        self.log.append((predicted_iou, object_scores))


def half(left: bool) -> NDArray[np.bool_]:
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[:, : WIDTH // 2] = left
    mask[:, WIDTH // 2 :] = not left
    return mask


def masks_in(log: list[Any]) -> list[Tensor | None]:
    return [entry for entry in log if entry is None or isinstance(entry, Tensor)]


def union(result: FrameResult) -> NDArray[np.float32]:
    return result.low_res_logits.max(axis=0)


def test_the_union_of_all_objects_decides(segmenter: Segmenter, clip: Clip) -> None:
    log: list[Any] = []
    session = Session(segmenter, policy=Watcher(log))
    session.prompt(object_id=1, mask=half(True))
    session.prompt(object_id=2, mask=half(False))
    results = [session.step(frame) for frame in clip(5)]
    seen = masks_in(log)
    assert len(seen) == 5 and seen[0] is None
    for mask, result in zip(seen[1:], results[:-1], strict=True):
        assert mask is not None and mask.shape[:2] == (1, 1)
        assert np.array_equal(mask[0, 0].numpy(), union(result))
    # Both objects count: neither mask alone is what was seen.
    first = seen[1]
    assert first is not None
    assert not any(np.array_equal(first[0, 0].numpy(), x) for x in results[0].low_res_logits)


def test_a_new_object_was_in_no_mask(segmenter: Segmenter, clip: Clip) -> None:
    log: list[Any] = []
    session = Session(segmenter, policy=Watcher(log))
    session.prompt(object_id=1, mask=half(True))
    session.prompt(object_id=2, mask=half(False), frame=2)
    for frame in clip(4):
        session.step(frame)
    assert [mask is None for mask in masks_in(log)] == [True, False, True, False]


def test_a_removed_object_no_longer_counts(segmenter: Segmenter, clip: Clip) -> None:
    log: list[Any] = []
    session = Session(segmenter, policy=Watcher(log))
    session.prompt(object_id=1, mask=half(True))
    session.prompt(object_id=2, mask=half(False))
    frames = clip(2)
    result = session.step(frames[0])
    session.remove(2)
    session.step(frames[1])
    mask = masks_in(log)[1]
    assert mask is not None and np.array_equal(mask[0, 0].numpy(), result.low_res_logits[0])


def test_a_correction_changes_what_the_next_frame_sees(segmenter: Segmenter, clip: Clip) -> None:
    log: list[Any] = []
    session = Session(segmenter, policy=Watcher(log))
    session.prompt(mask=half(True))
    frames = clip(3)
    session.step(frames[0])
    before = session.step(frames[1])
    after = session.correct(mask=half(False))
    assert not np.array_equal(union(before), union(after))
    session.step(frames[2])
    mask = masks_in(log)[-1]
    assert mask is not None and np.array_equal(mask[0, 0].numpy(), union(after))


def test_frames_out_of_turn_have_no_previous_mask(
    segmenter: Segmenter, clip: Clip, source: Any
) -> None:
    """Looking ahead, prompted frames are encoded before tracking has come to them."""
    log: list[Any] = []
    prompts = [Prompt(0, 1, mask=half(True)), Prompt(2, 2, mask=half(False))]
    options = TrackingOptions(lookahead=True)
    results = list(track(segmenter, source(clip(4)), prompts, options=options, policy=Watcher(log)))
    assert len(results) == 4
    conditioned = log[: log.index("begin")]
    assert masks_in(conditioned) == [None, None]
    assert masks_in(log[log.index("begin") :]) and any(
        mask is not None for mask in masks_in(log[log.index("begin") :])
    )


def test_backward_the_frame_after_is_the_previous_one(segmenter: Segmenter, clip: Clip) -> None:
    log: list[Any] = []
    session = Session(segmenter, policy=Watcher(log), start=3, reverse=True)
    session.prompt(mask=half(True), frame=3)
    results = [session.step(frame) for frame in reversed(clip(4))]
    for mask, result in zip(masks_in(log)[1:], results[:-1], strict=True):
        assert mask is not None and np.array_equal(mask[0, 0].numpy(), union(result))


@pytest.mark.parametrize(("reverse", "before"), [(False, 2), (True, 4)])
def test_a_frame_tracked_again_sees_the_masks_of_the_frame_before_it(
    segmenter: Segmenter, clip: Clip, reverse: bool, before: int
) -> None:
    log: list[Any] = []
    session = Session(segmenter, TrackingOptions(keep="all"), policy=Watcher(log))
    session.prompt(mask=half(True))
    frames = clip(8)
    results = [session.step(frame) for frame in frames]
    session.set_reverse(reverse)
    session.step(frames[3], index=3)
    mask = masks_in(log)[-1]
    assert mask is not None and np.array_equal(mask[0, 0].numpy(), union(results[before]))
    assert not np.array_equal(union(results[7]), union(results[before]))


def test_where_no_mask_lies_before_a_frame_there_is_none(segmenter: Segmenter, clip: Clip) -> None:
    log: list[Any] = []
    session = Session(segmenter, TrackingOptions(keep=2), policy=Watcher(log))
    session.prompt(mask=half(True))
    frames = clip(6)
    for frame in frames[:4]:
        last = session.step(frame)
    # Frame 4 was lost, and the one before it was not; nothing is left of frame 0.
    session.step(frames[5], index=5)
    mask = masks_in(log)[-1]
    assert mask is not None and np.array_equal(mask[0, 0].numpy(), union(last))
    session = Session(segmenter, TrackingOptions(keep=2), policy=Watcher(log))
    session.prompt(mask=half(True))
    for frame in frames[:4]:
        session.step(frame)
    session.step(frames[1], index=1)
    assert masks_in(log)[-1] is None


def test_every_video_gets_a_fresh_policy_and_every_frame_is_told(
    segmenter: Segmenter, clip: Clip
) -> None:
    log: list[Any] = []
    session = Session(segmenter, policy=Watcher(log))
    session.prompt(mask=half(True))
    for frame in clip(2):
        session.step(frame)
    kinds = [x if isinstance(x, str) else type(x).__name__ for x in log]
    assert kinds == ["fresh", "begin", "NoneType", "tuple", "begin", "Tensor", "tuple"]
    iou, scores = log[-1]
    assert iou.shape == scores.shape == (1,)
    session.reset()
    assert log[-1] == "fresh"


@pytest.fixture
def policy(segmenter: Segmenter) -> RecurrentPolicy:
    """A router that skips one of three blocks would need three; the toy has two, both in K."""
    torch.manual_seed(0)
    router = PredictiveRouter(RouterConfig.for_encoder(segmenter.encoder)).eval()
    return RecurrentPolicy(router.requires_grad_(False), FixedBudget(1.0), TopK())


def test_a_router_at_full_budget_changes_nothing(
    segmenter: Segmenter, clip: Clip, policy: RecurrentPolicy
) -> None:
    plain, routed = Session(segmenter), Session(segmenter, policy=policy)
    for session in (plain, routed):
        session.prompt(mask=half(True))
    for frame in clip(4):
        one, other = plain.step(frame), routed.step(frame)
        assert np.array_equal(one.low_res_logits, other.low_res_logits)
        assert other.blocks.all()
