"""SAMURAI's rules against a second derivation of them, and in sessions with awkward objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.models.config import HieraConfig, Pooling, SegmenterConfig, ViTConfig
from tempomask.models.encoder import KeepPlan
from tempomask.models.segmenter import Segmenter
from tempomask.ops.boxes import box_overlap, mask_extents
from tempomask.tracking.kalman import Box, BoxFilter
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.options import TrackingOptions, tracking_options
from tempomask.tracking.propagate import track
from tempomask.tracking.samurai import (
    Motion,
    MotionAwareMemories,
    MotionChooser,
    SamuraiConfig,
    choose_mask,
    samurai_config,
)
from tempomask.tracking.selection import RecentMemories
from tempomask.tracking.session import Session
from tempomask.types import Prompt

Frames = Callable[..., list[NDArray[np.uint8]]]
SAMURAI = TrackingOptions(memory="samurai")
NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
PERSON = np.zeros((48, 80), dtype=bool)
PERSON[8:22, 5:21] = True


# A second derivation: matrices of the whole state, rules written out from the paper and the
# released code, scores in plain lists.


class Matrices:
    """The 8 x 8 filter over (x, y, a, h, vx, vy, va, vh)."""

    def __init__(self, box: Sequence[float]) -> None:
        self.mean = np.concatenate([self.measured(box), np.zeros(4)])
        h = self.mean[3]
        deviations = [h / 10, h / 10, 1e-2, h / 10, h / 16, h / 16, 1e-5, h / 16]
        self.covariance = np.diag(np.square(deviations))

    @staticmethod
    def measured(box: Sequence[float]) -> NDArray[np.float64]:
        x0, y0, x1, y1 = box
        h = y1 - y0 if y1 != y0 else 1
        return np.array([(x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / h, h], dtype=float)

    def predict(self) -> None:
        motion, h = np.eye(8) + np.eye(8, k=4), self.mean[3]
        noise = [h / 20, h / 20, 1e-2, h / 20, h / 160, h / 160, 1e-5, h / 160]
        self.mean = motion @ self.mean
        self.covariance = motion @ self.covariance @ motion.T + np.diag(np.square(noise))

    def update(self, box: Sequence[float]) -> None:
        seen, h = np.eye(4, 8), self.mean[3]
        noise = np.diag(np.square([h / 20, h / 20, 1e-1, h / 20]))
        expected = seen @ self.covariance @ seen.T + noise
        gain = self.covariance @ seen.T @ np.linalg.inv(expected)
        self.mean = self.mean + gain @ (self.measured(box) - seen @ self.mean)
        self.covariance = self.covariance - gain @ expected @ gain.T

    def box(self) -> list[float]:
        x, y, a, h = self.mean[:4]
        return [x - a * h / 2, y - h / 2, x + a * h / 2, y + h / 2]


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    if list(b) == [0, 0, 0, 0]:
        return 0.0
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union else 0.0


class Naive:
    """Masks chosen frame by frame, with state that changes in place."""

    def __init__(self, weight: float, official: bool) -> None:
        self.weight, self.official = weight, official
        self.filter: Matrices | None = None
        self.stable = 0

    def frame(self, boxes: Sequence[Box], ious: Sequence[float]) -> tuple[int, float | None]:
        if self.filter is None or self.stable == 0:
            best, score = int(np.argmax(ious)), None
            if self.lost(boxes[best]):
                return best, 0.0
            self.filter, self.stable = Matrices(boxes[best]), 1
            return best, score
        self.filter.predict()
        motion = [overlap(self.filter.box(), box) for box in boxes]
        if self.stable < 15:
            best = int(np.argmax(ious))
            score = None if self.official else motion[best]
            if self.lost(boxes[best]):
                return best, 0.0
            if ious[best] > 0.3:
                self.filter.update(boxes[best])
                self.stable += 1
            else:
                self.stable = 0
            return best, score
        best = int(np.argmax(self.weight * np.array(motion) + (1 - self.weight) * np.array(ious)))
        if self.lost(boxes[best]):
            return best, 0.0
        if ious[best] < 0.3:
            self.stable = 0
        else:
            self.filter.update(boxes[best])
        return best, motion[best]

    def lost(self, box: Box) -> bool:
        if not self.official and (box[0] == box[2] or box[1] == box[3]):
            self.stable = 0
            return True
        return False


def boxes() -> st.SearchStrategy[Box]:
    side = st.integers(0, 24)
    near = st.tuples(side, side, side, side).map(
        lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
    )
    # Mostly boxes that overlap each other, now and then nothing or a single pixel.
    good = st.tuples(*[st.integers(-3, 3)] * 4).map(
        lambda d: (10.0 + d[0], 12.0 + d[1], 24.0 + d[2], 30.0 + d[3])
    )
    return st.one_of(good, good, good, near, st.just(NOWHERE)).map(
        lambda b: (float(b[0]), float(b[1]), float(b[2]), float(b[3]))
    )


def candidates() -> st.SearchStrategy[tuple[list[Box], list[float]]]:
    # Mostly sure, so that motion gets stable, with ties and doubts in between.
    iou = st.one_of(st.floats(0.31, 1.0), st.sampled_from([0.8, 0.9]), st.floats(0.0, 0.5))
    return st.tuples(
        st.lists(boxes(), min_size=3, max_size=3), st.lists(iou, min_size=3, max_size=3)
    )


@settings(max_examples=120, deadline=None)
@given(
    table=st.lists(candidates(), min_size=1, max_size=45),
    weight=st.sampled_from([0.15, 0.25, 0.9]),
    official=st.booleans(),
)
def test_masks_are_those_of_the_second_derivation(
    table: list[tuple[list[Box], list[float]]], weight: float, official: bool
) -> None:
    config = SamuraiConfig(motion_weight=weight, official_quirks=official)
    naive, motion = Naive(weight, official), None
    for places, ious in table:
        expected, expected_score = naive.frame(places, ious)
        choice = choose_mask(config, motion, places, ious)
        motion = choice.motion
        assert choice.mask == expected
        assert (choice.score is None) == (expected_score is None)
        assert choice.score == pytest.approx(expected_score, abs=1e-9)
        assert (motion.stable if motion else 0) == naive.stable


def test_the_random_tables_reach_every_rule() -> None:
    """A steady object: the filter starts, learns for 15 frames, then outvotes a higher IoU."""
    config, motion = SamuraiConfig(motion_weight=0.25), None
    here: Box = (10.0, 10.0, 30.0, 30.0)
    for frame in range(15):
        assert (motion.stable if motion else 0) == frame
        choice = choose_mask(config, motion, [here, NOWHERE, NOWHERE], [0.8, 0.1, 0.1])
        motion = choice.motion
    away: Box = (200.0, 200.0, 220.0, 220.0)
    assert choose_mask(config, motion, [away, here], [0.9, 0.8]).mask == 1
    assert choose_mask(config, None, [away, here], [0.9, 0.8]).mask == 0
    assert choose_mask(config, Motion(BoxFilter.start(here), 3), [away, here], [0.9, 0.8]).mask == 0


@settings(max_examples=100, deadline=None)
@given(st.lists(boxes(), min_size=1, max_size=30), st.data())
def test_the_filter_is_the_one_of_matrices(seen: list[Box], data: st.DataObject) -> None:
    ours, theirs = BoxFilter.start(seen[0]), Matrices(seen[0])
    for box in seen[1:]:
        ours = ours.predicted()
        theirs.predict()
        if data.draw(st.booleans()):
            ours = ours.updated(box)
            theirs.update(box)
        np.testing.assert_allclose(ours.box, theirs.box(), atol=1e-6)
        np.testing.assert_allclose(ours.velocity, theirs.mean[4:], atol=1e-7)
        for k in range(4):
            block = theirs.covariance[np.ix_([k, k + 4], [k, k + 4])]
            mine = [[ours.variance[k], ours.cross[k]], [ours.cross[k], ours.drift[k]]]
            np.testing.assert_allclose(mine, block, atol=1e-7)


def naive_memories(
    scores: dict[int, tuple[float, float, float | None]],
    conditioning: Sequence[int],
    frame: int,
    official: bool,
) -> list[tuple[int, int]]:
    """(frame, row of the temporal encoding) of the recent memories, oldest first; forward."""
    valid: list[int] = []
    for t in range(frame - 1, 1 if official else -1, -1):
        if t not in scores:
            continue
        iou, present, motion = scores[t]
        if iou > 0.5 and present > 0 and (motion is None or motion > 0):
            valid.insert(0, t)
        if len(valid) >= 15:
            break
    if frame - 1 not in valid:
        valid.append(frame - 1)
    rows = []
    for position in range(1, 7):
        if position - 7 < -len(valid):
            continue
        t = valid[position - 7]
        if t in scores and t not in conditioning:
            rows.append((t, 7 - position - 1))
    return rows


def memory(frame: int, scores: tuple[float, float, float | None]) -> Memory:
    iou, present, motion = scores
    return Memory(frame, torch.zeros(1), torch.zeros(1), present, iou, motion)


score = st.tuples(
    st.sampled_from([0.2, 0.5, 0.51, 0.9, 0.9]),
    st.sampled_from([-0.5, 0.0, 2.0, 2.0, 2.0]),
    st.sampled_from([None, 0.0, 0.4, 0.7]),
)


@settings(max_examples=150, deadline=None)
@given(
    table=st.lists(score, min_size=1, max_size=40),
    reverse=st.booleans(),
    official=st.booleans(),
    evict=st.booleans(),
)
def test_memories_are_those_of_the_second_derivation(
    table: list[tuple[float, float, float | None]], reverse: bool, official: bool, evict: bool
) -> None:
    """Also when the bank keeps only what the selector says can still be reached."""
    reverse = reverse and not official
    sign, last = (-1, 100) if reverse else (1, 0)
    rule = MotionAwareMemories(RecentMemories(), SamuraiConfig(official_quirks=official))
    bank = MemoryBank()
    bank.store(memory(last, (1.0, 10.0, None)), conditioning=True)
    scores: dict[int, tuple[float, float, float | None]] = {}
    for distance, row in enumerate(table, 1):
        frame = last + sign * distance
        chosen = rule.select(bank, frame, reverse)
        expected = naive_memories(scores, [0], distance, official)
        found = [
            (sign * (m.frame - last), index)
            for m, index in zip(chosen.spatial, chosen.temporal_index, strict=True)
        ]
        assert found == [(0, 6), *expected]
        recent = RecentMemories().select(bank, frame, reverse)
        assert [m.frame for m in chosen.pointers] == [m.frame for m in recent.pointers]
        assert chosen.distances == recent.distances
        scores[distance] = row
        bank.store(memory(frame, row), conditioning=False)
        if evict:
            following = frame + sign
            bank.retain(rule.reach(bank, following, following, reverse))
            assert len(bank.frames()) <= 8


def test_a_prompt_in_mid_video_is_a_conditioning_frame_and_its_slot_stays_empty() -> None:
    rule = MotionAwareMemories(RecentMemories(), SamuraiConfig())
    bank = MemoryBank()
    for t in range(10):
        bank.store(memory(t, (0.9, 5.0, 0.5)), conditioning=t in (0, 9))
    chosen = rule.select(bank, 10, reverse=False)
    assert [m.frame for m in chosen.spatial] == [0, 9, 4, 5, 6, 7, 8]
    assert chosen.temporal_index == (6, 6, 5, 4, 3, 2, 1)


def test_constants_by_size() -> None:
    weights = {name: samurai_config(name).motion_weight for name in ("nano", "sam2.1-tiny")}
    assert weights == {"nano": 0.25, "sam2.1-tiny": 0.25}
    for name in ("sam2.1-large", "sam2-large"):
        assert samurai_config(name).motion_weight == 0.15
    assert samurai_config("sam2.1-base-plus").motion_weight == 0.25
    assert TrackingOptions(memory="samurai-official").samurai_constants("nano") == samurai_config(
        "nano", official_quirks=True
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": "samurais"}, "memory must be one of"),
        ({"memory": "samurai", "memory_stride": 2}, "memory_stride 2 has no meaning"),
        ({"samurai": SamuraiConfig()}, 'need memory="samurai"'),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        tracking_options(**changes)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_extents_of_masks(height: int, width: int, data: st.DataObject) -> None:
    cells = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(cells).reshape(height, width)
    rows, columns = mask.nonzero()
    expected = (
        [columns.min(), rows.min(), columns.max(), rows.max()] if mask.any() else [0, 0, 0, 0]
    )
    found = mask_extents(torch.from_numpy(np.stack([mask, np.zeros_like(mask)])))
    assert found.tolist() == [expected, [0, 0, 0, 0]]


def test_overlap_of_boxes_without_area() -> None:
    assert box_overlap((3, 3, 3, 3), (3, 3, 3, 3)) == 0.0
    assert box_overlap((0, 0, 4, 4), (2, 2, 2, 9)) == 0.0
    assert box_overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)


class Scripted:
    """A decoder whose masks, predicted IoU and object score are written down by frame."""

    def __init__(self, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.frames: list[tuple[list[Box | None], list[float], float]] = []
        self.frame = 0
        propose = segmenter.propose

        def scripted(features: Tensor, high: tuple[Tensor, ...], *rest: Tensor, **named: Tensor):  # type: ignore[no-untyped-def]
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
        session._state.go_on(39, 40)
    remembered = session._selector.select(tracked.bank, 40, reverse=False)
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


def test_a_filter_that_shrinks_to_nothing_says_lost() -> None:
    """Boxes that collapse to a point: the score is 0, and nothing divides by zero."""
    config = SamuraiConfig()
    motion = Motion(BoxFilter.start((10.0, 10.0, 20.0, 20.0)), 15)
    for step in range(60):
        side = max(9.0 - step, 1.0)
        box = (10.0, 10.0, 10.0 + side, 10.0 + side)
        choice = choose_mask(config, motion, [box, NOWHERE], [0.9, 0.1])
        assert choice.motion is not None and np.isfinite(choice.motion.filter.box).all()
        motion = choice.motion
    point: Box = (15.0, 15.0, 15.0, 15.0)
    choice = choose_mask(config, motion, [point, NOWHERE], [0.9, 0.1])
    assert (choice.score, choice.motion) == (0.0, None)
    quirks = replace(config, official_quirks=True)
    choice = choose_mask(quirks, motion, [point, NOWHERE], [0.9, 0.1])
    assert choice.score == 0.0 and choice.motion is not None


def test_official_quirks_leak_the_filter_between_objects_and_past_a_reset() -> None:
    official = MotionChooser(SamuraiConfig(official_quirks=True))
    ours = MotionChooser(SamuraiConfig())
    one = ([[(0.0, 0.0, 9.0, 9.0)]], [[0.9]])
    other = ([[(50.0, 50.0, 90.0, 90.0)]], [[0.9]])
    for chooser in (official, ours):
        assert chooser.choose([None], *one)[0].motion is not None
    first, second = ours.choose([None], *other)[0], official.choose([None], *other)[0]
    assert first.motion is not None and first.motion.stable == 1
    assert second.motion is not None and second.motion.stable == 2


def results(segmenter: Segmenter, frames: list[NDArray[np.uint8]], source, prompts, **options):  # type: ignore[no-untyped-def]
    direction = options.pop("direction", "forward")
    chosen = tracking_options(memory="samurai", **options)
    found = track(segmenter, source(frames), prompts, direction=direction, options=chosen)
    return {result.index: result for result in found}


def test_objects_do_not_disturb_each_other(segmenter: Segmenter, clip: Frames, source) -> None:  # type: ignore[no-untyped-def]
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
    source,  # type: ignore[no-untyped-def]
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


def test_both_directions_from_the_middle(segmenter: Segmenter, clip: Frames, source) -> None:  # type: ignore[no-untyped-def]
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


class Recorder:
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
    assert result.object_ids == (1, 2) and session._chooser is not None
    assert session._chooser.config.motion_weight == (0.15 if name == "sam2.1" else 0.25)
    # Scores decide how old the seven frames of each object may be, not how many there are.
    assert max(sizes[18:]) <= 2 * (8 * 16 * 16 * 2 + 17 * 32 * 4)
