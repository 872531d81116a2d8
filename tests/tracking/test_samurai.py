"""SAMURAI's rules against a second derivation of them, over random tables of scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.tracking.kalman import Box, BoxFilter
from tempomask.tracking.memory_bank import Memory, MemoryBank
from tempomask.tracking.options import SamuraiConfig, TrackingOptions
from tempomask.tracking.samurai import (
    Motion,
    MotionAwareMemories,
    MotionChooser,
    choose_mask,
)
from tempomask.tracking.selection import RecentMemories, Selection, closest_conditioning

NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)


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
        if t not in scores or t in conditioning:
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


def as_frames(selection: Selection) -> tuple[list[tuple[int, int]], list[tuple[int, float]]]:
    """Spatial memories and pointers; sorted, as attention does not depend on the order of keys."""
    spatial = [m.frame for m in selection.spatial]
    pointers = [m.frame for m in selection.pointers]
    return (
        sorted(zip(spatial, selection.temporal_index, strict=True)),
        sorted(zip(pointers, selection.distances, strict=True)),
    )


@settings(max_examples=200, deadline=None)
@given(
    table=st.lists(score, min_size=1, max_size=40),
    prompted=st.sets(st.integers(1, 40), max_size=12),
    corrected=st.sets(st.integers(1, 40), max_size=6),
    ahead=st.sets(st.integers(1, 45), max_size=3),
    limit=st.sampled_from([-1, 2, 3]),
    reverse=st.booleans(),
    official=st.booleans(),
    keep=st.integers(0, 3),
)
def test_memories_are_those_of_the_second_derivation(
    table: list[tuple[float, float, float | None]],
    prompted: set[int],
    corrected: set[int],
    ahead: set[int],
    limit: int,
    reverse: bool,
    official: bool,
    keep: int,
) -> None:
    """Also when a bank keeps only what the selector says can still be reached."""
    reverse = reverse and not official
    sign, last = (-1, 100) if reverse else (1, 0)
    recent = RecentMemories(max_conditioning_frames=limit)
    rule = MotionAwareMemories(recent, SamuraiConfig(official_quirks=official))
    everything, bounded = MemoryBank(), MemoryBank()
    scores: dict[int, tuple[float, float, float | None]] = {}

    def store(distance: int, row: tuple[float, float, float | None], conditioning: bool) -> None:
        scores[distance] = row
        for bank in (everything, bounded):
            bank.store(memory(last + sign * distance, row), conditioning)

    for distance in sorted({0, *ahead}):
        store(distance, (1.0, 10.0, None), True)
    for distance, row in enumerate(table, 1):
        frame = last + sign * distance
        for query in range(frame, frame - sign * (keep + 1), -sign):
            assert as_frames(rule.select(bounded, query, reverse)) == as_frames(
                rule.select(everything, query, reverse)
            )
        chosen = rule.select(everything, frame, reverse)
        attended = [
            sign * (t - last) for t in closest_conditioning(everything.conditioning, frame, limit)
        ]
        found = [
            (sign * (m.frame - last), index)
            for m, index in zip(chosen.spatial, chosen.temporal_index, strict=True)
        ]
        expected = naive_memories(scores, attended, distance, official)
        assert found == [*((t, 6) for t in attended), *expected]
        plain = recent.select(everything, frame, reverse)
        assert [m.frame for m in chosen.pointers] == [m.frame for m in plain.pointers]
        assert chosen.distances == plain.distances
        store(distance, row, distance in prompted)
        bounded.retain(rule.reach(bounded, frame - sign * keep, frame + sign, reverse))
        with_features = {t for t, m in bounded.recent.items() if m.features is not None}
        assert len(with_features) <= 6 + keep + 2
        if distance in corrected and distance >= keep:
            store(distance - keep, (0.9, 5.0, 0.5), True)


@pytest.mark.parametrize(
    ("limit", "last_good", "expected"),
    [(-1, 26, [15, 16, 17, 18, 19, 39]), (2, -1, [20, 21, 22, 23, 24, 39])],
)
def test_attended_frames_do_not_displace_what_later_frames_select(
    limit: int, last_good: int, expected: list[int]
) -> None:
    """Frames 20 to 26 are prompted and good, of the others those up to the last good one."""
    rule = MotionAwareMemories(RecentMemories(max_conditioning_frames=limit), SamuraiConfig())
    bank = MemoryBank()
    for t in range(40):
        prompted = t == 0 or 20 <= t <= 26
        bank.store(memory(t, (0.9 if prompted or t <= last_good else 0.2, 5.0, 0.5)), prompted)
        bank.retain(rule.reach(bank, t + 1, t + 1, reverse=False))
    spatial, _ = as_frames(rule.select(bank, 40, reverse=False))
    assert [t for t, row in spatial if row < 6] == expected


def test_a_prompt_in_mid_video_is_a_conditioning_frame_and_its_slot_stays_empty() -> None:
    rule = MotionAwareMemories(RecentMemories(), SamuraiConfig())
    bank = MemoryBank()
    for t in range(10):
        bank.store(memory(t, (0.9, 5.0, 0.5)), conditioning=t in (0, 9))
    chosen = rule.select(bank, 10, reverse=False)
    assert [m.frame for m in chosen.spatial] == [0, 9, 4, 5, 6, 7, 8]
    assert chosen.temporal_index == (6, 6, 5, 4, 3, 2, 1)


def test_constants_by_size() -> None:
    constants = SamuraiConfig.for_model
    weights = {name: constants(name).motion_weight for name in ("nano", "sam2.1-tiny")}
    assert weights == {"nano": 0.25, "sam2.1-tiny": 0.25}
    for name in ("sam2.1-large", "sam2-large"):
        assert constants(name).motion_weight == 0.15
    assert constants("sam2.1-base-plus").motion_weight == 0.25
    assert constants("sam2.1-base-plus").multimask and not constants("nano").multimask
    official = TrackingOptions(memory="samurai-official").samurai_constants("nano")
    assert official == replace(constants("nano"), official_quirks=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"memory": "samurais"}, "memory must be"),
        ({"memory": "samurai", "memory_stride": 2}, "memory_stride 2 has no meaning"),
        ({"samurai": SamuraiConfig()}, 'need memory="samurai"'),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrackingOptions(**changes)


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
    assert (official._leaked is None, ours._leaked is None) == (False, True)
    first, second = ours.choose([None], *other)[0], official.choose([None], *other)[0]
    assert first.motion is not None and first.motion.stable == 1
    assert second.motion is not None and second.motion.stable == 2
