"""Whole videos: `track` is a loop over `step`; both directions; sources that end or run once."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempomask.errors import InputError
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Direction, track
from tempomask.tracking.session import Session

MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
A, B = 4, 2
PROMPTS = [
    Prompt(6, A, points=[(30, 20)]),
    Prompt(2, B, mask=MASK),
    Prompt(2, B, points=[(70, 5)], labels=[0]),
    Prompt(9, A, points=[(5, 40)], labels=[0]),
]


@pytest.mark.parametrize("seekable", [True, False])
def test_track_is_a_loop_over_step(
    seekable: bool, segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    frames = clip(20)
    results = list(track(segmenter, source(frames, seekable), PROMPTS))
    assert [r.index for r in results] == list(range(2, 20))
    assert [r.object_ids for r in results] == [(B,)] * 4 + [(B, A)] * 14
    session = Session(segmenter, start=2)
    for prompt in PROMPTS:
        session.add(prompt)
    for expected, t in zip(results, range(2, 20), strict=True):
        result = session.step(frames[t])
        assert np.array_equal(result.logits, expected.logits)
        assert np.array_equal(result.object_scores, expected.object_scores)
        assert np.array_equal(result.predicted_iou, expected.predicted_iou)
        assert np.array_equal(result.blocks, expected.blocks)


def test_start_and_end(segmenter: Segmenter, clip: Callable, source: Callable) -> None:
    video, prompt = source(clip(8)), Prompt(3, A, points=[(30, 20)])
    wide = list(track(segmenter, video, prompt, frames=range(1, 6)))
    assert [(r.index, r.object_ids) for r in wide] == [
        (1, ()),
        (2, ()),
        (3, (A,)),
        (4, (A,)),
        (5, (A,)),
    ]
    back = track(segmenter, video, prompt, direction="backward", frames=range(5, 1, -1))
    assert [(r.index, r.object_ids) for r in back] == [(5, ()), (4, ()), (3, (A,)), (2, (A,))]


def test_short_videos_have_pointers_scaled_by_their_length(
    segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    frames, prompt = clip(5), Prompt(0, A, points=[(30, 20)])
    known = list(track(segmenter, source(frames), prompt))[-1].low_res_logits
    stream = list(track(segmenter, source(frames, False), prompt))[-1].low_res_logits
    assert np.abs(known - stream).max() > 1e-3
    session = Session(segmenter, num_frames=5)
    session.add(prompt)
    assert np.array_equal([session.step(f) for f in frames][-1].low_res_logits, known)


@pytest.mark.parametrize("lookahead", [False, True])
def test_both_directions_give_every_frame_once_in_order(
    lookahead: bool,
    segmenter: Segmenter,
    clip: Callable,
    source: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    video = source(clip(14))
    options = TrackingOptions(lookahead=lookahead)
    results = list(track(segmenter, video, PROMPTS, direction="both", options=options))
    assert [r.index for r in results] == list(range(14))
    assert {r.object_ids for r in results} == {(B, A)}
    assert list(tmp_path.iterdir()) == []

    forward = {r.index: r for r in track(segmenter, video, PROMPTS, options=options)}
    latest = 6 if lookahead else 9
    backward = {
        r.index: r
        for r in track(
            segmenter,
            video,
            PROMPTS,
            direction="backward",
            frames=range(latest + 1),
            options=options,
        )
    }
    for result in results:
        for row, (object_id, first) in enumerate([(B, 2), (A, 6)]):
            proper = forward if result.index >= first else backward
            expected = proper[result.index]
            other = expected.object_ids.index(object_id)
            # What comes from the backward pass was kept as float16.
            tolerance = 0 if proper is forward else 2e-3
            np.testing.assert_allclose(
                result.low_res_logits[row], expected.low_res_logits[other], atol=tolerance
            )
            assert result.object_scores[row] == expected.object_scores[other]
        assert result.blocks.all() and result.logits.shape == (2, 48, 80)


@pytest.mark.parametrize("frames", [range(5), range(1, 6), range(3, 7), range(8), range(2, 10)])
def test_both_directions_with_prompts_beyond_the_end(
    frames: range, segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    """With lookahead they are seen, while no frame from the end on is given."""
    video, options = source(clip(10)), TrackingOptions(lookahead=True)
    prompts = [Prompt(8, A, mask=MASK), Prompt(6, B, points=[(30, 20)])]
    for chosen in (prompts[:1], prompts):
        both = track(segmenter, video, chosen, direction="both", frames=frames, options=options)
        results = list(both)
        assert [r.index for r in results] == list(frames)
        assert {r.object_ids for r in results} == {tuple(p.object_id for p in chosen[::-1])}
    if frames.stop == 10:
        return
    back = track(segmenter, video, prompts, direction="backward", frames=frames, options=options)
    for result, other in zip(results[::-1], back, strict=True):
        ours, theirs = (r.low_res_logits[r.object_ids.index(A)] for r in (result, other))
        np.testing.assert_allclose(ours, theirs, atol=2e-3)


def test_both_directions_of_a_prompt_on_the_first_frame_is_one_pass(
    segmenter: Segmenter, clip: Callable, source: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, prompt = source(clip(5)), Prompt(0, A, points=[(30, 20)])
    expected = list(track(segmenter, video, prompt))
    encode, images = segmenter.encode, []
    monkeypatch.setattr(segmenter, "encode", lambda *a: (images.append(a[0]), encode(*a))[1])
    both = list(track(segmenter, video, prompt, direction="both"))
    assert len(images) == 5
    for result, other in zip(both, expected, strict=True):
        assert np.array_equal(result.low_res_logits, other.low_res_logits)


def test_stopping_early_leaves_nothing_on_disk(
    segmenter: Segmenter,
    clip: Callable,
    source: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    results = track(segmenter, source(clip(8)), PROMPTS[0], direction="both")
    next(results)
    assert len(list(tmp_path.iterdir())) == 1
    results.close()  # type: ignore[attr-defined]
    assert list(tmp_path.iterdir()) == []


def test_lookahead_gives_every_object_from_the_start(
    segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    options = TrackingOptions(lookahead=True)
    results = list(track(segmenter, source(clip(12)), PROMPTS, options=options, frames=range(12)))
    assert [r.index for r in results] == list(range(12))
    assert {r.object_ids for r in results} == {(B, A)}


@pytest.mark.parametrize(
    "prompts, settings, message",
    [
        ([], {}, "no prompt given"),
        ([(1, 2)], {}, "must be Prompt objects, got tuple"),
        (Prompt(8, A, points=[(1, 1)]), {}, r"frame 8, but the video has 8 frames \(0 to 7\)"),
        (Prompt(0, A, points=[(82, 1)]), {}, "outside the 80 x 48 image"),
        (PROMPTS[1], {"direction": "sideways"}, "got 'sideways'"),
        (PROMPTS[1], {"frames": range(3, 9)}, "frame 2 lies outside the tracked frames 3 to 7"),
        (PROMPTS[1], {"frames": range(2)}, "frame 2 lies outside the tracked frames 0 to 1"),
        (PROMPTS[1], {"frames": range(8, 99)}, "frame 8 lies beyond the video's 8 frames"),
        (
            PROMPTS[1],
            {"direction": "backward", "frames": range(1, -1, -1)},
            "frame 2 lies outside .* 0 to 1",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_result(
    prompts: Any,
    settings: dict[str, Any],
    message: str,
    segmenter: Segmenter,
    clip: Callable,
    source: Callable,
) -> None:
    with pytest.raises(InputError, match=message):
        track(segmenter, source(clip(8)), prompts, **settings)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"direction": "backward"}, "direction 'backward' needs a source that can be read in any"),
        ({"direction": "both"}, "direction 'both' needs a source"),
        ({"options": TrackingOptions(lookahead=True)}, "lookahead needs a source"),
    ],
)
def test_streams_cannot_be_rewound(
    settings: dict[str, Any],
    message: str,
    segmenter: Segmenter,
    clip: Callable,
    source: Callable,
) -> None:
    with pytest.raises(InputError, match=message):
        track(segmenter, source(clip(3), False), Prompt(0, A, points=[(1, 1)]), **settings)


def test_a_stream_that_ends_before_a_prompt_says_so(
    segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    prompts = [Prompt(0, A, points=[(1, 1)]), Prompt(7, B, points=[(1, 1)])]
    results = track(segmenter, source(clip(5), False), prompts)
    seen = []
    with pytest.raises(InputError, match="frame 7"):
        seen.extend(r.index for r in results)
    assert seen == [0, 1, 2, 3, 4]


def test_a_stream_is_read_no_further_than_its_results_are_taken(
    segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    video = source(clip(5), False)
    read: list[int] = []
    frames = video.frames

    def counted(start: int = 0, end: int | None = None) -> Any:
        for index, frame in frames(start, end):
            read.append(index)
            yield index, frame

    video.frames = counted
    results = track(segmenter, video, Prompt(1, A, points=[(1, 1)]))
    assert read == []
    assert next(results).index == 1 and read == [1]


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_clicks_off_an_object_before_it_is_there(
    direction: Direction, segmenter: Segmenter, clip: Callable, source: Callable
) -> None:
    """Refused, or without effect where tracking goes backward to where the object is."""
    video, given = source(clip(6)), Prompt(3, A, points=[(30, 20)])
    early, late = (Prompt(t, A, points=[(5, 40)], labels=[0]) for t in (1, 5))
    with pytest.raises(InputError, match="object 4 .*frame 1"):
        track(segmenter, video, early, direction=direction)
    if direction != "backward":
        with pytest.raises(InputError, match="frame 1"):
            track(segmenter, video, [given, early], direction=direction)
    if direction != "forward":
        results = track(segmenter, video, [given, late], direction=direction)
        without = list(track(segmenter, video, given, direction=direction, frames=range(6)))
        for one, other in zip(results, without, strict=True):
            if one.index < 5:
                assert one.object_ids == other.object_ids
                np.testing.assert_allclose(one.low_res_logits, other.low_res_logits, atol=1e-5)
