"""The progress bar's total, and the video that keeps the frames of its results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tempomask import Prompt, load
from tempomask.cli.progress import FrameBar, RunStats
from tempomask.cli.run import ReplayBuffer
from tempomask.cli.tracking_task import TrackingTask
from tempomask.io.video import open_video
from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.passes import Direction, check_frames, plan_passes
from tempomask.tracking.upload import PreparedFrame, prepared_ahead

FRAMES = 7


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("lookahead", [False, True])
@pytest.mark.parametrize(
    "direction, span",
    [
        ("forward", None),
        ("forward", range(1, 6)),
        ("forward", range(2, 99)),
        ("backward", None),
        ("backward", range(6, 0, -1)),
        ("both", None),
        ("both", range(1, 6)),
        ("both", range(2, 7)),
    ],
)
def test_the_bar_ends_full_and_every_result_has_its_frame(
    video: Path,
    checkpoint: Path,
    direction: Direction,
    span: range | None,
    lookahead: bool,
    corrected: bool,
) -> None:
    prompts = [Prompt(frame=4, object_id=1, points=[(20, 16)]), Prompt(2, 2, box=(4, 8, 20, 24))]
    if corrected:
        prompts.append(Prompt(frame=5, object_id=2, points=[(8, 8)], labels=[0]))
    model = load(checkpoint=checkpoint, device="cpu")
    read = 0

    def count() -> None:
        nonlocal read
        read += 1

    with open_video(video) as opened:
        frames = dict(opened.frames())
        watched = ReplayBuffer(opened, count)
        options = TrackingOptions(lookahead=lookahead)
        for result in model.track(
            watched, prompts, direction=direction, frames=span, options=options
        ):
            assert np.array_equal(watched.frame(result.index), frames[result.index])
        checked = check_frames(span, FRAMES)
        planned = plan_passes(iter(prompts), direction, checked, lookahead)
        assert read == planned.frames_to_read(FRAMES)


def test_frames_read_ahead_are_not_read_again(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where a frame is read before the result of the one before it comes."""
    with open_video(video) as opened:
        frames = dict(opened.frames())
        watched = ReplayBuffer(opened, lambda: None)
        for direction in (watched.frames(), watched.reversed_frames(FRAMES - 1)):
            with monkeypatch.context() as patch:
                for index, prepared in prepared_ahead(direction, prepare):
                    # The reading has begun: any other is one too many.
                    patch.setattr(opened, "frames", None)
                    assert np.array_equal(watched.frame(index), frames[index])
                    assert np.array_equal(prepared.pixels, watched.frame(index))


def prepare(frame: NDArray[np.uint8]) -> PreparedFrame:
    return PreparedFrame(frame, (frame.shape[0], frame.shape[1]))


def test_a_live_source_has_no_total() -> None:
    prompt = Prompt(points=[(1, 1)])
    assert plan_passes([prompt], "forward").frames_to_read(None) is None
    assert plan_passes([prompt], "both").frames_to_read(None) is None
    bar = FrameBar("object")
    bar.expect(None)
    assert bar.bar.tasks[0].fields["known"] == "?"


def test_the_tally_tells_seen_from_tracked() -> None:
    stats, task = RunStats(seconds=2.0), TrackingTask([])
    assert stats.report()["fps"] is None
    for index, logit in enumerate((3.0, -3.0, 3.0, -3.0)):
        logits = np.stack([np.full((2, 2), logit), np.full((2, 2), -1.0)]).astype(np.float32)
        blocks = np.array([True, index % 2 == 0])
        score = np.array([0.5, 0.9], dtype=np.float32)
        stats.add(index)
        task.note(FrameResult(index, (4, 4), (3, 1), FrameArrays(logits, score, score), blocks))
    taken = np.stack([np.full((2, 2), 2.0), np.full((2, 2), 1.0)]).astype(np.float32)
    hidden = TrackingTask([])
    arrays = FrameArrays(taken, score, score)
    hidden.note(FrameResult(0, (4, 4), (3, 1), arrays, blocks, non_overlapping=True))
    assert [seen["visible_frames"] for seen in hidden.report(stats)["objects"]] == [0, 1]
    report = {**stats.report(), **task.report(stats)}
    assert (report["frames"], report["fps"], report["blocks_run"]) == (4, 2.0, 0.75)
    assert report["objects"] == [
        {"id": 1, "frames": 4, "visible_frames": 0, "predicted_iou": None},
        {"id": 3, "frames": 4, "visible_frames": 2, "predicted_iou": 0.5},
    ]
