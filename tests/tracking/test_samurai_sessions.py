"""SAMURAI's memory in sessions: objects that vanish, distractors, directions, all models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.config import HieraConfig, Pooling, SegmenterConfig, ViTConfig
from tempomask.models.encoder import KeepPlan, Policy
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.tracking.kalman import Box
from tempomask.tracking.options import SamuraiConfig, TrackingOptions
from tempomask.tracking.passes import track
from tempomask.tracking.rules import MotionRule
from tempomask.tracking.session import Session

Frames = Callable[..., list[NDArray[np.uint8]]]
Source = Callable[..., Any]
SAMURAI = TrackingOptions(memory="samurai")
PERSON = np.zeros((48, 80), dtype=bool)
PERSON[8:22, 5:21] = True


class Scripted:
    """A decoder whose masks, predicted IoU and object score are written down by frame."""

    def __init__(self, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: list[tuple[list[Box | None], list[float], float]] = []
        self.frame = 0
        propose = segmenter.propose

        def scripted(
            features: Tensor, high: tuple[Tensor, ...], *rest: Tensor, **named: Tensor
        ) -> Any:
            real = propose(features, high, *rest, **named)
            if self.frame >= len(self.frames):
                return real
            places, ious, present = self.frames[self.frame]
            logits = torch.full_like(real.logits, -5.0)
            for k, place in enumerate(places, 1):
                if place is not None:
                    x0, y0, x1, y1 = (int(side) for side in place)
                    logits[:, k, y0:y1, x0:x1] = 5.0
            logits[:, 0] = logits[:, 1]
            iou = torch.tensor([ious[0], *ious]).expand(len(logits), -1)
            return real._replace(
                logits=logits, iou=iou, object_score=torch.full_like(real.object_score, present)
            )

        monkeypatch.setattr(segmenter, "propose", scripted)


@pytest.fixture
def script(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(segmenter, monkeypatch)


HERE: Box = (3, 3, 7, 7)
AWAY: Box = (11, 11, 15, 15)


def play(segmenter: Segmenter, script: Scripted, frames: list[NDArray[np.uint8]]) -> Session:
    session = Session(segmenter, SAMURAI)
    session.prompt(mask=PERSON)
    session.step(frames[0])
    return session


def test_an_object_that_leaves_and_returns(
    segmenter: Segmenter, script: Scripted, clip: Frames
) -> None:
    """Motion is lost with the object, its empty frames are not remembered, and it starts anew."""
    frames = clip(40)
    seen = ([HERE, AWAY, AWAY], [0.9, 0.5, 0.4], 5.0)
    gone = ([None, None, None], [0.9, 0.9, 0.9], -3.0)
    script.frames = [*[seen] * 19, *[gone] * 17, *[seen] * 4]
    session = play(segmenter, script, frames)
    for index in range(1, 40):
        script.frame = index
        result = session.step(frames[index])
        tracked = session._state.objects[1]
        output = tracked.outputs[index]
        if 19 <= index <= 35:
            assert result.lost.tolist() == [True]
            assert (result.object_scores <= 0).all() and not result.masks.any()
            assert output.motion is None and output.motion_score == 0.0
        else:
            assert result.lost.tolist() == [False] and result.masks.any()
            assert output.motion is not None
    # Frame 40 would attend to what was seen since the return, and to what was seen before that.
    with torch.inference_mode():
        session._frame_step.remember(session._state)
        session._state.advance(39, 40)
    remembered = session._frame_step.selector.select(tracked.bank, 40, reverse=False)
    assert [m.frame for m in remembered.spatial] == [0, 17, 18, 36, 37, 38, 39]


def test_motion_outvotes_a_distractor_once_it_is_stable(
    segmenter: Segmenter, script: Scripted, clip: Frames
) -> None:
    frames = clip(24)
    sure, tempting = (
        ([HERE, AWAY, None], [0.8, 0.5, 0.1], 5.0),
        ([HERE, AWAY, None], [0.8, 0.85, 0.1], 5.0),
    )
    script.frames = [sure] * 20 + [tempting] * 4
    session = play(segmenter, script, frames)
    for index in range(1, 24):
        script.frame = index
        result = session.step(frames[index])
    assert result.low_res_logits[0, 5, 5] > 0 > result.low_res_logits[0, 13, 13]
    # Without SAMURAI the network's own guess wins, on a model where three masks compete.
    plain = Session(segmenter)
    plain.prompt(mask=PERSON)
    for index in range(24):
        script.frame = index
        result = plain.step(frames[index])
    assert result.low_res_logits[0, 13, 13] > 0


def test_a_mask_stays_down_to_the_official_presence_threshold(
    segmenter: Segmenter, script: Scripted, clip: Frames
) -> None:
    frames = clip(3)
    for present, visible in ((-0.9, True), (-1.1, False)):
        script.frames = [([HERE] * 3, [0.9] * 3, present)] * 3
        session = play(segmenter, script, frames)
        script.frame = 1
        result = session.step(frames[1])
        assert result.masks.any() == visible and result.lost.tolist() == [True]


@pytest.mark.parametrize("size", [0, 1])
def test_masks_of_a_pixel_or_none_for_many_frames(
    segmenter: Segmenter, script: Scripted, clip: Frames, size: int
) -> None:
    frames = clip(30)
    place = (4, 4, 4 + size, 4 + size) if size else None
    script.frames = [([place, place, place], [0.9, 0.8, 0.7], 5.0)] * 30
    session = play(segmenter, script, frames)
    for index in range(1, 30):
        script.frame = index
        result = session.step(frames[index])
        assert np.isfinite(result.low_res_logits).all()
        assert result.lost.tolist() == [size == 0]
        assert session.memory_bytes() < 60_000


def results(
    segmenter: Segmenter,
    frames: list[NDArray[np.uint8]],
    source: Source,
    prompts: Any,
    **options: Any,
) -> dict[int, FrameResult]:
    direction = options.pop("direction", "forward")
    chosen = TrackingOptions(memory="samurai", **options)
    found = track(segmenter, source(frames), prompts, direction=direction, options=chosen)
    return {result.index: result for result in found}


def test_objects_do_not_disturb_each_other(
    segmenter: Segmenter, clip: Frames, source: Source
) -> None:
    """One, prompted at 0 by a mask, is tracked as if the others (click at 5, box at 9) were not."""
    frames = clip(24)
    first = Prompt(frame=0, object_id=1, mask=PERSON)
    later = [
        Prompt(frame=5, object_id=2, points=[(20, 20)]),
        Prompt(frame=9, object_id=3, box=(4, 4, 30, 30)),
    ]
    alone = results(segmenter, frames, source, first)
    together = results(segmenter, frames, source, [first, *later])
    assert together[23].object_ids == (1, 2, 3)
    for index, result in alone.items():
        np.testing.assert_allclose(
            together[index].low_res_logits[0], result.low_res_logits[0], atol=2e-3
        )


def test_backward_is_forward_on_the_film_run_backward(
    segmenter: Segmenter,
    clip: Frames,
    source: Source,
) -> None:
    frames = clip(22)
    forward = results(segmenter, frames, source, Prompt(frame=0, mask=PERSON))
    mirrored = results(
        segmenter,
        frames[::-1],
        source,
        Prompt(frame=21, mask=PERSON),
        direction="backward",
    )
    for index in range(22):
        assert np.array_equal(forward[index].low_res_logits, mirrored[21 - index].low_res_logits)


def test_both_directions_from_the_middle(
    segmenter: Segmenter, clip: Frames, source: Source
) -> None:
    found = results(
        segmenter, clip(15), source, Prompt(frame=7, points=[(12, 14)]), direction="both"
    )
    assert list(found) == list(range(15))
    assert all(result.object_ids == (1,) for result in found.values())


def test_a_prompt_starts_motion_anew(segmenter: Segmenter, clip: Frames) -> None:
    frames = clip(12)
    session = Session(segmenter, SAMURAI)
    session.prompt(mask=PERSON)
    stable = []
    for index in range(12):
        if index == 8:
            session.prompt(mask=PERSON)
        session.step(frames[index])
        motion = session._state.objects[1].outputs[index].motion
        stable.append(0 if motion is None else motion.stable)
    assert stable[0] == 0 and stable[8] == 0
    assert stable[9] <= 1
    session.correct(points=[(12, 14)])
    assert session._state.objects[1].outputs[11].motion is not None


def test_official_quirks_run_forward_only(segmenter: Segmenter, clip: Frames) -> None:
    with pytest.raises(InputError, match="tracks forward only"):
        Session(segmenter, TrackingOptions(memory="samurai-official"), reverse=True)
    session = Session(segmenter, TrackingOptions(memory="samurai-official"))
    session.prompt(box=(4, 4, 30, 30))
    for frame in clip(5):
        result = session.step(frame)
    assert result.index == 4


def test_every_rule_of_memory_sees_other_frames(segmenter: Segmenter, clip: Frames) -> None:
    """SAMURAI changes what is tracked; with thresholds that all pass only the masks' choice may."""
    frames = clip(20)
    last = {}
    for name, options in {
        "recent": TrackingOptions(),
        "samurai": SAMURAI,
        "open": TrackingOptions(
            memory="samurai",
            samurai=SamuraiConfig(
                presence_threshold=0.0,
                memory_iou=-1,
                memory_object_score=-99,
                memory_motion=-1,
                motion_weight=0.0,
            ),
        ),
    }.items():
        session = Session(segmenter, options)
        session.prompt(mask=PERSON)
        for frame in frames:
            last[name] = session.step(frame).low_res_logits
    assert np.array_equal(last["recent"], last["open"])


class Recorder(Policy):
    """A policy that runs everything and keeps the masks it is shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor | None] = []

    def plan(self, embedding: Tensor, previous_masks: Tensor | None) -> KeepPlan:
        self.seen.append(previous_masks)
        return KeepPlan([True, True])


def test_a_router_sees_the_masks_that_motion_chose(
    segmenter: Segmenter, script: Scripted, clip: Frames
) -> None:
    places = [HERE, AWAY, None]
    sure, tempting = (places, [0.8, 0.5, 0.1], 5.0), (places, [0.8, 0.85, 0.1], 5.0)
    script.frames = [sure] * 20 + [tempting] * 3
    recorder = Recorder()
    session = Session(segmenter, SAMURAI, policy=recorder)
    session.prompt(mask=PERSON)
    for index, frame in enumerate(clip(23)):
        script.frame = index
        session.step(frame)
    last = recorder.seen[-1]
    assert last is not None and last[0, 0, 5, 5] > 0 > last[0, 0, 13, 13]


def other_networks() -> dict[str, Callable[[SegmenterConfig], SegmenterConfig]]:
    """Small kin of the published models, from the configuration of the toy one."""
    hiera = HieraConfig(8, 1, (1, 1, 2, 1), (3,), window_sizes=(4, 2, 4, 2), position_size=(2, 2))
    vit = ViTConfig(32, 2, 2, (1,), window_size=3, position_size=4)

    def efficienttam(pooling: Pooling) -> Callable[[SegmenterConfig], SegmenterConfig]:
        return lambda toy: replace(
            toy,
            name="efficienttam-toy",
            encoder=vit,
            memory_attention=replace(toy.memory_attention, pooling=pooling),
            high_resolution=False,
            occlusion_embedding=False,
            pointer_temporal_encoding=False,
        )

    return {
        "sam2.1": lambda toy: replace(toy, name="sam2.1-large", encoder=hiera),
        "sam2": lambda toy: replace(
            toy,
            name="sam2-tiny",
            encoder=hiera,
            occlusion_embedding=False,
            pointer_temporal_encoding=False,
        ),
        "efficienttam": efficienttam("none"),
        "efficienttam-1": efficienttam("eq5"),
        "efficienttam-2": efficienttam("eq6"),
        "nano": lambda toy: replace(
            toy,
            multimask_min_points=1,
            memory_attention=replace(toy.memory_attention, image_keys=True),
        ),
    }


@pytest.mark.parametrize("name", other_networks())
def test_every_kind_of_model_follows_motion(segmenter: Segmenter, clip: Frames, name: str) -> None:
    """Two objects with a prompt each, of which one comes later; many frames, memory stays flat."""
    torch.manual_seed(0)
    network = Segmenter(other_networks()[name](segmenter.config)).eval()
    network.mask_decoder.object_score_head.layers[-1].bias.data.fill_(3.0)
    session = Session(network, SAMURAI)
    session.prompt(object_id=1, box=(5, 8, 21, 22))
    session.prompt(object_id=2, points=[(40, 30)], frame=4)
    sizes = []
    for frame in clip(26):
        result = session.step(frame)
        sizes.append(session.memory_bytes())
        assert np.isfinite(result.low_res_logits).all()
    assert result.object_ids == (1, 2) and isinstance(session._frame_step.masks, MotionRule)
    assert session._frame_step.masks.chooser.config.motion_weight == (
        0.15 if name == "sam2.1" else 0.25
    )
    # Scores decide how old the seven frames of each object may be, not how many there are.
    assert max(sizes[18:]) <= 2 * (8 * 16 * 16 * 2 + 17 * 32 * 4)
