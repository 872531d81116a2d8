"""Sessions: objects come and go, nothing leaks, nothing grows, bad input is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.errors import InputError
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.results import FrameResult
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
A, B, C = 41, -7, 1000
EXACT = TrackingOptions(memory_dtype="float32")
ONE_BY_ONE = TrackingOptions(memory_dtype="float32", objects_per_batch=1)


def run(session: Session, frames: Iterable[np.ndarray], prompts: list[Prompt]) -> list[FrameResult]:
    for prompt in prompts:
        session.add(prompt)
    return [session.step(frame) for frame in frames]


def rows(results: list[FrameResult], object_id: int) -> np.ndarray:
    return np.stack(
        [
            r.low_res_logits[r.object_ids.index(object_id)]
            for r in results
            if object_id in r.object_ids
        ]
    )


class Calls:
    """Counts the calls of the network's steps, and keeps their arguments."""

    def __init__(self, segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        for name in ("encode", "attend", "decode", "encode_memory", "use_mask_as_output"):
            monkeypatch.setattr(segmenter, name, self._spy(name, getattr(segmenter, name)))

    def _spy(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.made.append((name, args, kwargs))
            return method(*args, **kwargs)

        return call

    def of(self, name: str) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        return [(args, kwargs) for made, args, kwargs in self.made if made == name]

    def counts(self, *names: str) -> list[int]:
        return [len(self.of(name)) for name in names]


@pytest.fixture
def calls(segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(segmenter, monkeypatch)


PROMPTS = [
    Prompt(0, A, points=[(12, 14)]),
    Prompt(3, B, box=(30, 20, 60, 40)),
    Prompt(3, C, mask=MASK),
    Prompt(6, B, points=[(70, 5)], labels=[0]),
]


@pytest.mark.parametrize("options", [EXACT, ONE_BY_ONE], ids=["batched", "one by one"])
def test_objects_tracked_together_are_as_if_tracked_alone(
    options: TrackingOptions, segmenter: Segmenter, clip: Callable
) -> None:
    frames = clip(9)
    together = run(Session(segmenter, options), frames, PROMPTS)
    assert [r.object_ids for r in together] == [(A,)] * 3 + [(A, B, C)] * 6
    for object_id in (A, B, C):
        own = [p for p in PROMPTS if p.object_id == object_id]
        alone = rows(run(Session(segmenter, options), frames, own), object_id)
        if options is ONE_BY_ONE:
            assert np.array_equal(rows(together, object_id), alone)
        else:
            # Rounding differs with the size of the batch, and grows from frame to frame.
            np.testing.assert_allclose(rows(together, object_id), alone, atol=1e-3)
            assert (np.abs(alone[(rows(together, object_id) > 0) != (alone > 0)]) < 1e-3).all()


def test_an_object_prompted_later_or_corrected_never_changes_another(
    segmenter: Segmenter, clip: Callable
) -> None:
    frames = clip(10)
    alone = run(Session(segmenter, ONE_BY_ONE), frames, PROMPTS[:1])
    session = Session(segmenter, ONE_BY_ONE)
    session.prompt(object_id=A, points=[(12, 14)])
    for t, frame in enumerate(frames):
        if t in (3, 6):
            session.prompt(object_id=B, box=(30, 20, 60, 40))
        result = session.step(frame)
        if t in (4, 8):
            result = session.correct(object_id=B, points=[(70, 5)], labels=[0])
        if t == 7:
            session.remove(B)
            session.prompt(object_id=B, mask=MASK)
        assert np.array_equal(result.low_res_logits[0], alone[t].low_res_logits[0])


def test_objects_of_one_layout_share_every_call(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    session = Session(segmenter, EXACT)
    for object_id, x in ((A, 12), (B, 30), (C, 60)):
        session.prompt(object_id=object_id, points=[(x, 14)])
    frames = clip(6)
    session.step(frames[0])
    assert calls.counts("encode", "attend", "decode", "encode_memory") == [1, 1, 1, 0]
    for frame in frames[1:]:
        session.step(frame)
    assert calls.counts("encode", "attend", "decode", "encode_memory") == [6, 6, 6, 5]
    assert all(args[1] is None or len(args[1].spatial) == 3 for args, _ in calls.of("attend"))


@pytest.mark.parametrize("per_batch, expected", [(None, 1), (2, 2), (1, 3)])
def test_objects_per_batch_bounds_the_batch(
    per_batch: int | None, expected: int, segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    session = Session(segmenter, TrackingOptions(objects_per_batch=per_batch))
    for object_id in (A, B, C):
        session.prompt(object_id=object_id, mask=MASK)
    for frame in clip(2):
        session.step(frame)
    assert calls.counts("attend", "use_mask_as_output", "encode_memory") == [expected] * 3


def test_a_session_forgets_its_video_at_the_end(segmenter: Segmenter, clip: Callable) -> None:
    with Session(segmenter) as session:
        session.prompt(object_id=A, points=(12, 14))
        assert session.step(clip(1)[0]).object_ids == (A,)
    assert (session.object_ids, session.index, session.size) == ((), None, None)


def test_two_sessions_side_by_side_and_one_used_again(segmenter: Segmenter, clip: Callable) -> None:
    videos = [clip(8, seed=1), clip(8, seed=2)]
    prompts = [[Prompt(0, A, points=[(12, 14)])], [Prompt(1, A, box=(30, 20, 60, 40))]]
    alone = [run(Session(segmenter), frames, p) for frames, p in zip(videos, prompts, strict=True)]
    sessions = [Session(segmenter), Session(segmenter)]
    for session, p in zip(sessions, prompts, strict=True):
        session.add(p[0])
    for t in range(8):
        for session, frames, expected in zip(sessions, videos, alone, strict=True):
            result = session.step(frames[t])
            assert np.array_equal(result.low_res_logits, expected[t].low_res_logits)
    sessions[0].reset()
    assert (sessions[0].index, sessions[0].size, sessions[0].object_ids) == (None, None, ())
    again = run(sessions[0], videos[1], prompts[1])
    for result, expected in zip(again, alone[1], strict=True):
        assert np.array_equal(result.low_res_logits, expected.low_res_logits)


def test_without_objects_the_encoder_does_not_run(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    session = Session(segmenter)
    frames = clip(4)
    result = session.step(frames[0])
    assert (result.index, result.object_ids, result.size) == (0, (), (48, 80))
    assert result.masks.shape == (0, 48, 80) and result.boxes.shape == (0, 4)
    assert result.blocks.shape == (2,) and not result.blocks.any()
    assert calls.made == []
    # An object can still be added on the frame that has just passed.
    added = session.correct(object_id=A, points=[(12, 14)])
    assert added.object_ids == (A,) and added.blocks.all()
    expected = run(Session(segmenter), frames, [Prompt(0, A, points=[(12, 14)])])
    assert np.array_equal(added.low_res_logits, expected[0].low_res_logits)
    after = [session.step(frame) for frame in frames[1:]]
    assert np.array_equal(rows(after, A), rows(expected[1:], A))
    session.remove(A)
    assert not session.step(frames[0]).blocks.any()


@pytest.mark.parametrize("side", [64, 40])
def test_a_camera_may_use_its_buffer_again(side: int, segmenter: Segmenter) -> None:
    image = np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)
    buffer, kept = image.copy(), Session(segmenter)
    kept.step(buffer)
    buffer[:] = 0
    expected = run(Session(segmenter), [image], [Prompt(0, A, points=[(12, 14)])])[0]
    result = kept.correct(object_id=A, points=[(12, 14)])
    assert np.array_equal(result.low_res_logits, expected.low_res_logits)


def test_features_of_the_last_frame_are_kept_for_corrections(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    session = Session(segmenter, TrackingOptions(keep=2))
    session.prompt(points=[(12, 14)])
    for frame in clip(4):
        session.step(frame)
    session.correct(points=[(30, 20)])
    session.correct(points=[(5, 40)], labels=[0])
    assert calls.counts("encode") == [4]
    session.correct(points=[(30, 20)], frame=2)
    session.correct(points=[(5, 40)], labels=[0], frame=2)
    assert calls.counts("encode") == [5]


def test_a_prompt_on_a_coming_frame_is_initial_and_sees_no_memory(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames = clip(5)
    session = Session(segmenter)
    session.prompt(points=[(12, 14)])
    session.prompt(points=[(30, 20)], frame=3)
    assert [prompt.frame for prompt in session.waiting] == [0, 3]
    results = [session.step(frame) for frame in frames]
    assert [args[1] is None for args, _ in calls.of("attend")] == [True, False, False, True, False]
    fresh = Session(segmenter, start=3)
    fresh.prompt(points=[(30, 20)])
    assert np.array_equal(fresh.step(frames[3]).low_res_logits, results[3].low_res_logits)
    last = calls.of("attend")[-2][0][1]
    assert last.temporal_index.tolist() == [6, 6, 2, 1]


def test_clicks_off_an_object_on_a_coming_frame_take_away_from_what_is_tracked(
    segmenter: Segmenter, clip: Callable
) -> None:
    """The same masks, then and later, as a correction when the frame has come."""
    frames, away = clip(6), {"points": [(5, 40)], "labels": [0]}
    ahead, later = Session(segmenter), Session(segmenter)
    for session in (ahead, later):
        session.prompt(points=[(12, 14)])
    ahead.prompt(**away, frame=3)
    for t, frame in enumerate(frames):
        one, other = ahead.step(frame), later.step(frame)
        if t == 3:
            other = later.correct(**away)
        assert np.array_equal(one.low_res_logits, other.low_res_logits), t


def test_clicks_on_one_frame_add_up(segmenter: Segmenter, clip: Callable, calls: Calls) -> None:
    session = Session(segmenter)
    session.prompt(box=(5, 5, 20, 20))
    session.prompt(points=[(12, 14)])
    session.step(clip(1)[0])
    session.correct(points=[(30, 20), (1, 1)], labels=[0, 0])
    session.correct(mask=MASK)
    session.correct(points=[(12, 14)])
    clicked = [(args, kwargs) for args, kwargs in calls.of("decode") if len(args) > 3]
    labels = [args[3].tolist() for args, _ in clicked]
    assert labels == [[[2, 3]], [[2, 3, 1]], [[2, 3, 1, 0, 0]], [[1]]]
    multimask = [kwargs["multimask"] for _, kwargs in clicked]
    assert multimask == [False, False, False, True]
    # Each click after the first is shown the logits so far, held within +-32.
    fed_back = [args[4] for args, _ in clicked]
    assert [value is None for value in fed_back] == [True, False, False, False]
    assert all(value.abs().max() <= 32 for value in fed_back[1:])


@pytest.mark.parametrize("keep", [0, 3])
def test_nothing_grows_with_the_length_of_the_video(
    keep: int, segmenter_with_image_keys: Segmenter, clip: Callable
) -> None:
    session = Session(segmenter_with_image_keys, TrackingOptions(keep=keep))
    session.prompt(object_id=A, points=[(12, 14)])
    session.prompt(object_id=B, box=(30, 20, 60, 40), frame=2)
    sizes = []
    for frame in clip(60):
        session.step(frame)
        state = session._state
        stores = [state.frames._pixels, state.frames._blocks, state.frames.images]
        for tracked in state.objects.values():
            stores += [tracked.bank.recent, tracked.outputs, tracked.clicks, tracked.staged]
        sizes.append((session.memory_bytes(), *map(len, stores)))
    assert len(set(sizes[30:])) == 1
    assert sizes[-1][1] == keep + 1


def test_only_so_many_frames_back_can_be_corrected(segmenter: Segmenter, clip: Callable) -> None:
    frames = clip(30)
    bounded = Session(segmenter, TrackingOptions(memory_dtype="float32", keep=3))
    unbounded = Session(segmenter, TrackingOptions(memory_dtype="float32", keep="all"))
    for session in (bounded, unbounded):
        run(session, frames[:25], [Prompt(0, A, points=[(12, 14)])])
    for frame in (24, 21, 23):
        both = [
            s.correct(object_id=A, points=[(30, 20)], frame=frame) for s in (bounded, unbounded)
        ]
        assert np.array_equal(both[0].low_res_logits, both[1].low_res_logits)
    with pytest.raises(InputError, match="frame 20"):
        bounded.correct(object_id=A, points=[(30, 20)], frame=20)
    with pytest.raises(InputError, match="frame 20"):
        bounded.step(frames[20], index=20)
    for t in range(22, 30):
        again = [s.step(frames[t], index=t) for s in (bounded, unbounded)]
        assert np.array_equal(again[0].low_res_logits, again[1].low_res_logits)


def test_a_correction_conditions_the_frames_after_it(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames = clip(5)
    for conditions, expected in ((True, [6, 6, 1]), (False, [6, 1, 0])):
        session = Session(segmenter, TrackingOptions(corrections_condition=conditions))
        session.prompt(points=[(12, 14)])
        for frame in frames[:3]:
            session.step(frame)
        session.correct(points=[(30, 20)])
        session.step(frames[3])
        assert calls.of("attend")[-1][0][1].temporal_index.tolist() == expected


def test_prompted_masks_can_be_binarised(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames = clip(4)
    expected = {False: [False] * 3, True: [True, False, True, False], "frame": [True, False, True]}
    for option, flags in expected.items():
        calls.made.clear()
        session = Session(segmenter, TrackingOptions(binarise_prompted_masks=option))
        session.prompt(object_id=A, points=[(12, 14)])
        session.prompt(object_id=B, points=[(30, 20)], frame=2)
        for frame in frames:
            session.step(frame)
        made = [kwargs["binarise"] for _, kwargs in calls.of("encode_memory")]
        assert sorted(made) == sorted(flags)


def test_memory_of_a_mask_prompt_comes_from_low_resolution_logits_or_the_full_mask(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames = clip(2)
    for full, side in ((False, 16), (True, 64)):
        session = Session(segmenter, TrackingOptions(memory_from_full_mask=full))
        session.prompt(mask=MASK)
        for frame in frames:
            session.step(frame)
        logits = calls.of("encode_memory")[-1][0][1]
        assert logits.shape == (1, 1, side, side)
        assert logits.min() == -10 and logits.max() == 10


def test_holes_are_filled_in_what_is_shown_not_in_what_tracking_remembers(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames, prompts = clip(3), [Prompt(0, A, mask=MASK)]
    plain = run(Session(segmenter, EXACT), frames, prompts)
    remembered = [args[1] for args, _ in calls.of("encode_memory")]
    calls.made.clear()
    options = TrackingOptions(memory_dtype="float32", fill_holes=30)
    filled = run(Session(segmenter, options), frames, prompts)
    assert torch.equal(calls.of("encode_memory")[-1][0][1], remembered[-1])
    before, after = plain[-1].low_res_logits, filled[-1].low_res_logits
    changed = before != after
    assert changed.any() and (before[changed] <= 0).all()
    assert (after[changed] == np.float32(0.1)).all()


def test_a_prompted_mask_is_remembered_as_it_was_shown(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    """With its holes filled, as the official predictor remembers what a person has seen."""
    with_hole = MASK.copy()
    with_hole[12:18, 10:16] = False
    for area in (0, 30):
        calls.made.clear()
        session = Session(segmenter, TrackingOptions(fill_holes=area))
        session.prompt(mask=with_hole)
        shown, _ = (session.step(frame).low_res_logits for frame in clip(2))
        assert np.array_equal(calls.of("encode_memory")[0][0][1][0].numpy(), shown)
        assert (shown == np.float32(0.1)).any() == (area > 0)


def test_masks_without_overlap_where_asked_for(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames, wide = clip(3), np.ones((48, 80), dtype=bool)
    prompts = [Prompt(0, A, mask=MASK), Prompt(0, B, mask=wide)]
    overlapping = run(Session(segmenter), frames, prompts)
    assert (overlapping[0].masks.sum(axis=0) == 2).any()
    assert calls.of("encode_memory")[0][0][1].shape[-1] == 16
    calls.made.clear()
    options = TrackingOptions(non_overlapping=True, non_overlapping_memory=True)
    apart = run(Session(segmenter, options), frames, prompts)
    assert all((r.masks.sum(axis=0) <= 1).all() for r in apart)
    remembered = calls.of("encode_memory")[0][0][1]
    assert remembered.shape == (2, 1, 64, 64)
    assert ((remembered > 0).sum(dim=0) <= 1).all()


@pytest.mark.parametrize(
    "option, method, name",
    [
        ({"dynamic_multimask": True}, "decode", "dynamic_multimask"),
        ({"multimask_mask_pointer": True}, "use_mask_as_output", "multimask"),
    ],
)
def test_options_that_the_network_carries_out(
    option: dict[str, Any],
    method: str,
    name: str,
    segmenter: Segmenter,
    clip: Callable,
    calls: Calls,
) -> None:
    for options, expected in (({}, False), (option, True)):
        calls.made.clear()
        session = Session(segmenter, TrackingOptions(**options))
        session.prompt(object_id=A, mask=MASK)
        session.prompt(object_id=B, points=[(12, 14)])
        for frame in clip(2):
            session.step(frame)
        flags = [kwargs[name] for _, kwargs in calls.of(method) if name in kwargs]
        assert flags and set(flags) == {expected}


def test_previous_logits_need_not_be_fed_back(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    session = Session(segmenter, TrackingOptions(feed_previous_logits=False))
    session.prompt(points=[(12, 14)])
    session.step(clip(1)[0])
    session.correct(points=[(30, 20)])
    assert calls.of("decode")[-1][0][4] is None


@pytest.mark.parametrize("name", ["bfloat16", "float16", "float32"])
def test_memories_are_stored_in_the_dtype_asked_for(
    name: str, segmenter_with_image_keys: Segmenter, clip: Callable
) -> None:
    session = Session(segmenter_with_image_keys, TrackingOptions(memory_dtype=name))
    session.prompt(points=[(12, 14)])
    for frame in clip(3):
        result = session.step(frame)
    bank = session._state.objects[1].bank
    features = [bank.conditioning[0].features, *session._state.frames.images.values()]
    assert {f.dtype for f in features if f is not None} == {getattr(torch, name)}
    assert result.low_res_logits.dtype == np.float32


def test_low_precision_computation_stays_close(segmenter: Segmenter, clip: Callable) -> None:
    frames, prompts = clip(3), [Prompt(0, A, mask=MASK)]
    exact = run(Session(segmenter, EXACT), frames, prompts)
    low = run(Session(segmenter, EXACT, dtype=torch.bfloat16), frames, prompts)
    assert low[1].low_res_logits.dtype == np.float32
    assert not np.array_equal(low[1].low_res_logits, exact[1].low_res_logits)
    np.testing.assert_allclose(low[1].low_res_logits, exact[1].low_res_logits, atol=0.5)


class SkipSecond(Policy):
    """A policy that runs only the first block, and keeps what it is given."""

    def __init__(self) -> None:
        self.seen: list[torch.Tensor | None] = []

    def plan(self, embedding: torch.Tensor, previous_masks: torch.Tensor | None) -> Any:
        from tempomask.models.encoder import KeepPlan

        self.seen.append(previous_masks)
        return KeepPlan([True, False])


def test_a_policy_sees_the_last_masks_and_results_say_which_blocks_ran(
    segmenter: Segmenter, clip: Callable
) -> None:
    policy = SkipSecond()
    session = Session(segmenter, policy=policy)
    results = run(session, clip(3), PROMPTS[:1] + [Prompt(0, B, mask=MASK)])
    assert [r.blocks.tolist() for r in results] == [[True, False]] * 3
    assert policy.seen[0] is None
    for seen, result in zip(policy.seen[1:], results[:-1], strict=True):
        assert seen is not None and seen.shape == (1, 1, 16, 16)
        assert np.array_equal(seen[0, 0].numpy(), result.low_res_logits.max(axis=0))


def test_conditioning_in_advance_reaches_frames_before_it(
    segmenter: Segmenter, clip: Callable, calls: Calls
) -> None:
    frames = clip(4)
    session = Session(segmenter)
    ahead = session.condition(frames[3], [Prompt(3, A, points=[(12, 14)])])
    results = [session.step(frame) for frame in frames]
    assert [r.object_ids for r in results] == [(A,)] * 4
    assert calls.of("attend")[1][0][1].temporal_index.tolist() == [6]
    assert calls.of("attend")[1][0][1].pointers.shape == (1, 0, 32)
    # The result given then is the frame's result now; it was encoded once.
    assert np.array_equal(ahead.low_res_logits, results[3].low_res_logits)
    assert results[3].blocks.all() and calls.counts("encode") == [4]


def test_frames_can_come_in_reverse(segmenter: Segmenter, clip: Callable) -> None:
    session = Session(segmenter, start=5, reverse=True)
    session.prompt(points=[(12, 14)])
    frames = clip(6)
    assert [session.step(frames[t]).index for t in (5, 4, 3)] == [5, 4, 3]
    assert session.next_index == 2
    with pytest.raises(InputError, match="frame 4"):
        session.prompt(points=[(1, 1)], frame=4)


@pytest.fixture
def stepped(segmenter: Segmenter, clip: Callable) -> Session:
    session = Session(segmenter)
    session.prompt(object_id=A, points=[(12, 14)])
    for frame in clip(3):
        session.step(frame)
    return session


BLACK = np.zeros((48, 80, 3), np.uint8)


@pytest.mark.parametrize(
    "act, message",
    [
        (lambda s: s.step(BLACK[:, :70]), "frame of 70 x 48 pixels in a video of 80 x 48"),
        (lambda s: s.step(BLACK.astype(float)), "float64; give .* scale to 0..255"),
        (lambda s: s.prompt(points=[(82, 3)]), r"point \(82, 3\) outside the 80 x 48 image"),
        (lambda s: s.prompt(box=(90, 0, 99, 9), frame=9), r"9\) outside the 80 x 48 image"),
        (lambda s: s.correct(mask=np.ones((4, 4), bool)), "mask of 4 x 4 pixels"),
        (lambda s: s.correct(points=[(1, 1)], frame=3), "frame 3 has not been stepped"),
        (lambda s: s.correct(points=[(1, 1)], frame=1), "frame 1 is not kept"),
        (lambda s: s.prompt(points=[(1, 1)], frame=0), "frame 0 is not kept"),
        (
            lambda s: s.correct(object_id=B, points=[(1, 1)], labels=[0]),
            "object -7 has only clicks",
        ),
        (
            lambda s: s.condition(BLACK, [Prompt(1, B, points=[(1, 1)], labels=[0])]),
            "only clicks off it on frame 1, its first; add a click on it there, a box or a mask",
        ),
        (lambda s: s.remove(5), "there is no object 5 to remove; tracked: 41"),
        (lambda s: s.condition(BLACK, []), r"prompts of one frame, got \[\]"),
        (
            lambda s: s.condition(BLACK, [Prompt(1, points=[(1, 1)]), Prompt(2, box=(0, 0, 1, 1))]),
            r"prompts of one frame, got \[1, 2\]",
        ),
    ],
)
def test_bad_input_is_refused_and_changes_nothing(
    act: Callable[[Session], Any],
    message: str,
    stepped: Session,
    segmenter: Segmenter,
    clip: Callable,
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        act(stepped)
    assert "\n" not in str(caught.value)
    expected = run(Session(segmenter), clip(4), [Prompt(0, A, points=[(12, 14)])])[-1]
    result = stepped.step(clip(4)[3])
    assert result.object_ids == (A,) and result.index == 3
    assert np.array_equal(result.low_res_logits, expected.low_res_logits)


@pytest.mark.parametrize("step", ["encode", "decode", "use_mask_as_output"])
@pytest.mark.parametrize("act", ["step", "correct", "condition"])
def test_a_prompt_that_fails_changes_nothing(
    step: str,
    act: str,
    stepped: Session,
    segmenter: Segmenter,
    clip: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = clip(4)[3]
    prompts = [Prompt(3, A, points=[(30, 20)], labels=[0]), Prompt(3, B, mask=MASK)]

    def fail(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no memory left")

    monkeypatch.setattr(segmenter, step, fail)
    if act == "step":
        for prompt in prompts:
            stepped.add(prompt)
    with pytest.raises(RuntimeError, match="no memory left"):
        if act == "step":
            stepped.step(frame)
        elif act == "condition":
            stepped.condition(frame, prompts)
        else:
            stepped._state.frames._encoded = None
            if step == "use_mask_as_output":
                stepped.correct(object_id=B, mask=MASK)
            stepped.correct(object_id=A, points=[(30, 20)], labels=[0])
    monkeypatch.undo()
    assert (stepped.object_ids, stepped.index) == ((A,), 2)
    assert list(stepped.waiting) == (prompts if act == "step" else [])
    later = prompts if act == "step" else []
    expected = run(Session(segmenter), clip(4), [Prompt(0, A, points=[(12, 14)]), *later])[-1]
    result = stepped.step(frame)
    assert result.object_ids == expected.object_ids and result.index == 3
    assert np.array_equal(result.low_res_logits, expected.low_res_logits)


def test_correcting_before_the_first_frame_is_refused(segmenter: Segmenter) -> None:
    with pytest.raises(InputError, match="there is no frame to correct"):
        Session(segmenter).correct(points=[(1, 1)])


def test_a_waiting_prompt_that_does_not_fit_is_dropped_when_the_size_is_known(
    segmenter: Segmenter, clip: Callable
) -> None:
    session, frames = Session(segmenter), clip(2)
    session.prompt(object_id=A, points=[(12, 14)])
    session.prompt(object_id=B, points=[(500, 14)])
    with pytest.raises(InputError, match="500, 14"):
        session.step(frames[0])
    assert session.index is None
    assert session.step(frames[0]).object_ids == (A,)
    with pytest.raises(InputError, match="9 x 9"):
        Session(segmenter, size=(9, 9)).prompt(points=[(12, 3)])


def test_waiting_clicks_off_an_object_that_is_not_there_are_dropped(
    segmenter: Segmenter, clip: Callable
) -> None:
    session, frame = Session(segmenter), clip(1)[0]
    session.prompt(object_id=A, points=[(5, 40)], labels=[0])
    session.prompt(object_id=B, points=[(5, 40)], labels=[0])
    session.prompt(object_id=A, points=[(12, 14)])
    with pytest.raises(InputError, match="object -7"):
        session.step(frame)
    assert [prompt.object_id for prompt in session.waiting] == [A, A]
    assert session.step(frame).object_ids == (A,)


def test_a_removed_object_takes_its_waiting_prompts_along(
    segmenter: Segmenter, clip: Callable
) -> None:
    session, frames = Session(segmenter), clip(3)
    session.prompt(object_id=A, points=[(12, 14)])
    session.prompt(object_id=B, points=[(12, 14)], frame=2)
    session.step(frames[0])
    session.remove(B)
    assert session.waiting == ()
    assert [session.step(frame).object_ids for frame in frames[1:]] == [(A,), (A,)]
    session.remove(A)
    session.prompt(object_id=A, mask=MASK)
    again = session.step(frames[0])
    fresh = run(Session(segmenter), frames[:1], [Prompt(0, A, mask=MASK)])[0]
    assert np.array_equal(again.low_res_logits, fresh.low_res_logits)
