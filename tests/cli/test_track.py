"""`tempomask track`: what it writes and says, Ctrl-C, resuming, and errors."""

from __future__ import annotations

import csv
import json
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempomask.cli.tracking_task import TrackingTask
from tempomask.io.images import read_mask, write_label_png
from tempomask.model import Model
from tempomask.results import FrameArrays, FrameResult
from tempomask.tracking.options import TrackingOptions
from tempomask.tracking.session import Session

# Of the video in conftest.py.
FRAMES, HEIGHT, WIDTH = 7, 32, 48

Run = Callable[..., tuple[int, str, str]]
Track = Callable[..., dict[str, Any]]


def masks_of(folder: Path) -> dict[str, np.ndarray]:
    return {path.name: read_mask(path) for path in sorted((folder / "masks").iterdir())}


def fake_results(monkeypatch: pytest.MonkeyPatch, interrupt_at: int | None = None) -> list[Any]:
    """Replace the tracker by one that moves a square, and note how it is called.

    An object is seen on all frames but 4; Ctrl-C arrives while frame `interrupt_at` is tracked.
    """
    calls: list[Any] = []

    def fake(
        self: Model, source: Any, prompts: Any, *, frames: range | None = None,
        direction: str = "forward", **options: Any,
    ) -> Iterator[FrameResult]:  # fmt: skip
        calls.append({"prompts": prompts, "frames": frames, **options})
        return results(source, prompts, direction, frames)

    def results(
        source: Any, prompts: Any, direction: str, given: range | None
    ) -> Iterator[FrameResult]:
        ids = tuple(sorted({prompt.object_id for prompt in prompts}))
        frames = [prompt.frame for prompt in prompts]
        if direction == "backward":
            read = source.reversed_frames(*((given[-1], given[0]) if given else (max(frames), 0)))
        else:
            read = source.frames(*((given.start, given.stop) if given else (min(frames), None)))
        for index, _ in read:
            logits = np.full((len(ids), 16, 16), -5.0, dtype=np.float32)
            if index != 4:
                logits[:, 2:6, index : index + 4] = 5.0
            if index == interrupt_at:
                signal.raise_signal(signal.SIGINT)
            ones = np.ones(len(ids), dtype=np.float32)
            yield FrameResult(
                index,
                (HEIGHT, WIDTH),
                ids,
                FrameArrays(logits, ones, 0.5 * ones),
                np.array([True, False]),
            )

    monkeypatch.setattr(Model, "track", fake)
    monkeypatch.setattr(TrackingTask, "state", lambda self: None)
    return calls


def test_a_click_becomes_files_and_one_json_object(track: Track, tmp_path: Path) -> None:
    out = tmp_path / "out"
    save = "masks,objects,overlay,rle,npz,boxes,chart"
    report = track("--point", "12,16", "--out", out, "--save", save)
    assert report["frames"] == FRAMES
    assert (report["first_frame"], report["last_frame"]) == (0, FRAMES - 1)
    assert report["size"] == [HEIGHT, WIDTH]
    assert report["interrupted"] is False and report["resumed_at"] is None
    assert [item["id"] for item in report["objects"]] == [1]
    assert set(report["files"]) == {*save.split(","), "frames"}
    assert all(Path(path).exists() for path in report["files"].values())
    assert len(masks_of(out)) == FRAMES
    with Path(report["files"]["boxes"]).open() as file:
        assert len(list(csv.DictReader(file))) == FRAMES


def test_the_command_gives_the_masks_of_the_library(
    track: Track, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    from tempomask import Prompt, load

    track("--box", "4,8,20,24", "--object", 2, "--point", "30,4", "--out", tmp_path / "out")
    prompts = [Prompt(object_id=1, box=(4, 8, 20, 24)), Prompt(object_id=2, points=[(30, 4)])]
    model = load(checkpoint=checkpoint)
    written = masks_of(tmp_path / "out")
    for result, (name, labels) in zip(model.track(video, prompts), written.items(), strict=True):
        assert name == f"{result.index:05d}.png"
        assert np.array_equal(labels, result.label_map())


@pytest.mark.parametrize("direction", ["forward", "backward", "both"])
def test_directions_and_the_overlay_frames(track: Track, tmp_path: Path, direction: str) -> None:
    arguments = ("--frame", 2, "--point", "12,16", "--frame", 4, "--object", 2, "--point", "20,16")
    report = track(*arguments, "--direction", direction, "--out", tmp_path / direction)
    covered = {"forward": (2, FRAMES - 1), "backward": (0, 4), "both": (0, FRAMES - 1)}[direction]
    assert (report["first_frame"], report["last_frame"]) == covered
    assert report["frames"] == covered[1] - covered[0] + 1
    assert Path(report["files"]["overlay"]).stat().st_size > 0


def test_options_reach_the_tracker(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_results(monkeypatch)
    track(
        *("--point", "1,2", "--out", tmp_path, "--start", 0, "--end", 3, "--fill-holes", 8),
        *("--lookahead", "--non-overlapping", "--dynamic-multimask", "--preset", "interactive"),
        *("--memory-stride", 2, "--objects-per-batch", 4, "--compatibility", "transformers"),
    )
    (call,) = calls
    del call["prompts"]
    options = TrackingOptions.transformers(
        fill_holes=8, lookahead=True, non_overlapping=True, memory_stride=2, objects_per_batch=4
    )
    assert (call["frames"], call["options"]) == (range(3), options)
    assert call["routing"].settings() == {}


def test_the_summary_is_for_people(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_results(monkeypatch)
    monkeypatch.chdir(tmp_path)
    code, out, err = run("track", video, "--checkpoint", checkpoint, "--point", "1,2")
    assert code == 0
    assert f"{FRAMES} frames in" in out and "FPS" in out
    assert "0.50" in out  # predicted IoU
    assert not err  # without a terminal, what is quick says nothing of its progress
    assert (tmp_path / "square-tracked" / "overlay.mp4").exists()


def interrupt(monkeypatch: pytest.MonkeyPatch, at: int, number: int = signal.SIGINT) -> list[int]:
    """A signal comes while the real tracker is at frame `at`; the frames that it steps."""
    step, stepped = Session.step, list[int]()

    def interrupted(self: Session, frame: Any, index: int | None = None) -> FrameResult:
        assert index is not None
        stepped.append(index)
        if index == at:
            signal.raise_signal(number)
        return step(self, frame, index)

    monkeypatch.setattr(Session, "step", interrupted)
    return stepped


@pytest.fixture
def heard_hangup() -> Iterator[None]:
    """Under nohup SIGHUP is ignored, by a run of tempomask too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("heard_hangup")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("direction, rest", [("forward", [4, 5, 6]), ("backward", [1, 0])])
def test_a_stopped_run_that_is_resumed_equals_one_in_one_go(
    track: Track,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    direction: str,
    rest: list[int],
    number: int,
) -> None:
    first, last = (0, 5) if direction == "forward" else (6, 1)
    arguments = ("--frame", first, "--point", "12,16", "--direction", direction, "--object", 2)
    arguments = (*arguments, "--frame", last, "--box", "4,8,20,24", "--save", "masks,overlay,boxes")
    whole = track(*arguments, "--out", tmp_path / "whole")
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with monkeypatch.context() as patch:
        interrupt(patch, rest[0] - 1 if direction == "forward" else rest[0] + 1, number)
        report = track(*arguments, "--out", tmp_path / "out", code=130)
    after = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    assert after == before
    assert report["interrupted"] and report["frames"] == FRAMES - len(rest)
    assert len(masks_of(tmp_path / "out")) == FRAMES - len(rest)
    assert Path(report["files"]["overlay"]).exists()
    assert (tmp_path / "out" / "session.safetensors").exists()

    with monkeypatch.context() as patch:
        stepped = interrupt(patch, -1)
        report = track(*arguments, "--out", tmp_path / "out", "--resume")
    assert report["resumed_at"] == rest[0] and report["frames"] == len(rest)
    assert stepped == rest
    assert not (tmp_path / "out" / "session.safetensors").exists()
    assert masks_of(tmp_path / "out").keys() == masks_of(tmp_path / "whole").keys()
    for name, labels in masks_of(tmp_path / "out").items():
        assert np.array_equal(labels, masks_of(tmp_path / "whole")[name])
    boxes = (Path(folder["files"]["boxes"]).read_text() for folder in (report, whole))
    assert next(boxes) == next(boxes)
    done = track(*arguments, "--out", tmp_path / "out", "--resume")
    assert done["frames"] == 0 and done["objects"] == []


def test_a_run_whose_session_is_gone_is_tracked_again_from_its_first_frame(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track("--point", "12,16", "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 2)
        track("--point", "12,16", "--out", tmp_path / "out", code=130)
    (tmp_path / "out" / "session.safetensors").unlink()
    stepped = interrupt(monkeypatch, -1)
    report = track("--point", "12,16", "--out", tmp_path / "out", "--resume")
    assert (report["resumed_at"], report["frames"]) == (3, FRAMES - 3)
    assert stepped == list(range(FRAMES))
    for name, labels in masks_of(tmp_path / "out").items():
        assert np.array_equal(labels, masks_of(tmp_path / "whole")[name])


def test_a_damaged_session_is_one_line(
    track: Track, run: Run, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = ("--point", "12,16", "--out", tmp_path)
    track(*arguments, "--end", 3)
    kept = tmp_path / "session.safetensors"
    kept.write_bytes(kept.read_bytes()[:-9])
    given = ("track", video, "--checkpoint", checkpoint, *arguments, "--resume")
    code, _, err = run(*given)
    assert code == 2 and "the kept state is damaged" in err and err.count("\n") == 1


def test_resume_refuses_another_run(track: Track, run: Run, video: Path, checkpoint: Path,
                                    tmp_path: Path) -> None:  # fmt: skip
    arguments = ("track", video, "--checkpoint", checkpoint, "--out", tmp_path, "--end", 2)
    assert run(*arguments, "--point", "12,16")[0] == 0
    before = masks_of(tmp_path)
    code, out, err = run(*arguments, "--point", "13,16", "--resume")
    assert code == 2 and not out
    assert "object 1 on frame 0: click on 12,16" in err and "click on 13,16" in err
    assert err.count("\n") == 1
    copy = checkpoint.with_name("other" + checkpoint.suffix)
    copy.write_bytes(checkpoint.read_bytes())
    again = ("track", video, "--checkpoint", copy, "--out", tmp_path, "--end", 2)
    code, _, err = run(*again, "--point", "12,16", "--resume")
    assert code == 2 and f"this run has {str(copy)!r}" in err
    assert masks_of(tmp_path).keys() == before.keys()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ([], "no prompt given; say where the object is with --point, --box, --mask or --prompts"),
        (["--point", "99,5"], "point (99, 5) outside the 48 x 32 image"),
        (["--negative", "9,5"], "object 1 has only clicks off it on frame 0, its first; add a"),
        (["--box", "60,0,70,9"], "box (60, 0, 70, 9) outside the 48 x 32 image"),
        (["--object", 0, "--point", "1,2"], "object id 0: ids begin at 1, 0 is background"),
        (["--object", -1, "--point", "1,2"], "object id -1: ids begin at 1, 0 is background"),
        (["--object", 70000, "--point", "1,2"], "object id 70000 does not fit a mask image"),
        (["--point", "1,2", "--frame", 70], "prompt on frame 70, but the video has 7 frames"),
        (["--point", "1,2", "--save", "masks,gif"], "--save gif: unknown; there are masks"),
        (["--point", "1,2", "--save", ""], "--save '' is not a list of names, such as"),
        (["--point", "1,2", "--router", "none", "--budget", 0.5], "router none runs all blocks"),
        (["--point", "1,2", "--memory", "x"], 'Invalid value "x" for --memory'),
        (["--point", "1,2", "--direction", "up"], 'Invalid value "up" for --direction'),
        (["--point", "1,2", "--model", "nanno"], "unknown model 'nanno'"),
        (["--point", "1,2", "--image-size", 65], "image_size 65 does not fit nano"),
        (["--point", "1,2", "--device", "cuda:7"], "device 'cuda:7' asked for"),
        (["--point", "1,2", "--preset", "best"], 'Invalid value "best" for --preset'),
        (["--point", "1,2", "--end", 0], "--end 0 leaves no frame: tracking starts at frame 0"),
        (["--point", "1,2", "--frame", 4, "--end", 2], "--end 2 leaves no frame"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path, arguments: list[Any], message: str
) -> None:
    out = tmp_path / "out"
    if "--model" not in arguments:
        arguments = [*arguments, "--checkpoint", checkpoint]
    code, stdout, err = run("track", video, *arguments, "--out", out)
    assert code == 2 and not stdout
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize("source", ["no/such/video.mp4", "text.mp4", "empty"])
def test_bad_sources(
    run: Run, tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.mp4").write_text("not a video")
    Path("empty").mkdir()
    code, _, err = run("track", source, "--point", "1,2")
    assert code == 2
    assert source in err and err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"text.mp4", "empty"}


def test_bad_masks_and_places(run: Run, video: Path, checkpoint: Path, tmp_path: Path) -> None:
    write_label_png(tmp_path / "small.png", np.ones((5, 6), dtype=np.int32))
    (tmp_path / "file").write_text("")
    base = ("track", video, "--checkpoint", checkpoint)
    code, _, err = run(*base, "--mask", tmp_path / "small.png", "--out", tmp_path / "out")
    assert code == 2 and "mask of 6 x 5 pixels; it must be as large as the 48 x 32 image" in err
    code, _, err = run(*base, "--point", "1,2", "--out", tmp_path / "file")
    assert code == 2 and "is a file; choose another folder" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "small.png"]


def test_traceback_shows_where_an_error_comes_from(run: Run) -> None:
    from tempomask import InputError

    with pytest.raises(InputError, match="no such file"):
        run("track", "nothing.mp4", "--point", "1,2", "--traceback")


def test_prompts_of_several_kinds_in_one_file(track: Track, tmp_path: Path) -> None:
    labels = np.zeros((HEIGHT, WIDTH), dtype=np.int32)
    labels[8:24, 4:12], labels[8:24, 12:20] = 1, 2
    write_label_png(tmp_path / "first.png", labels)
    entries = [{"mask": "first.png"}, {"frame": 3, "object": 5, "box": [9, 8, 29, 24]}]
    (tmp_path / "prompts.json").write_text(json.dumps(entries))
    report = track("--prompts", tmp_path / "prompts.json", "--out", tmp_path / "out")
    frames = {item["id"]: item["frames"] for item in report["objects"]}
    assert frames == {1: FRAMES, 2: FRAMES, 5: FRAMES - 3}


def test_input_is_not_overwritten(
    track: Track, run: Run, video: Path, checkpoint: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    track("--point", "12,16", "--out", out)
    write_label_png(out / "masks" / "00001.png", np.eye(HEIGHT, WIDTH, dtype=np.int32))
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    prompts = tmp_path / "prompts.json"
    prompts.write_text(json.dumps([{"mask": "out/masks/00001.png"}]))
    mask = out / "masks" / "00001.png"
    rows = [
        (out / "overlay.mp4", "--point", "12,16", out / "overlay.mp4"),
        (out / "masks", "--point", "12,16", out / "masks"),
        (video, "--mask", mask, mask),
        (video, "--prompts", prompts, mask),
    ]
    for source, option, value, named in rows:
        code, _, err = run("track", source, "--checkpoint", checkpoint, option, value, "--out", out)
        assert code == 2 and f"the input {named}; choose another output folder" in err
    for command in ("propagate", "instances"):
        given = ("--mask", mask) if command == "propagate" else ()
        code, _, err = run(command, out / "masks", *given, "--out", out)
        assert code == 2 and "would overwrite or mingle" in err
    assert before == {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}


def test_another_source_of_the_same_name_has_a_folder_of_its_own(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_results(monkeypatch)
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other" / video.name
    shutil.copytree(video, other)
    arguments = ("--checkpoint", checkpoint, "--point", "1,2", "--save", "masks")
    for source, folder in ((video, "square-tracked"), (other, "square-tracked-2")) * 2:
        code, out, err = run("track", source, *arguments)
        assert code == 0 and f"{folder}/masks" in out
        told = "square-tracked holds the results of another source; these go to square-tracked-2"
        assert (told in err) == (source == other)


def test_ctrl_c_in_the_backward_pass_of_both_keeps_it(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--point", "22,16", "--frame", 5, "--direction", "both")
    whole = track(*arguments, "--out", tmp_path / "whole")
    with monkeypatch.context() as patch:
        interrupt(patch, 3)
        report = track(*arguments, "--out", tmp_path / "out", code=130)
    assert report["interrupted"] and report["first_frame"] <= 3 and report["last_frame"] == 4
    kept = [f"{index:05d}.png" for index in range(report["first_frame"], 5)]
    assert list(masks_of(tmp_path / "out")) == kept
    report = track(*arguments, "--out", tmp_path / "out", "--resume")
    assert report["frames"] == FRAMES - len(kept)
    found, expected = masks_of(tmp_path / "out"), masks_of(tmp_path / "whole")
    assert whole["frames"] == FRAMES and found.keys() == expected.keys()
    for name in expected:
        assert np.array_equal(found[name], expected[name])


def test_prompts_are_for_the_first_frame_to_track(
    track: Track, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_results(monkeypatch)
    (tmp_path / "prompts.json").write_text(json.dumps([{"object": 2, "box": [1, 2, 9, 9]}]))
    given = ("--point", "1,2", "--prompts", tmp_path / "prompts.json", "--out", tmp_path / "out")
    report = track(*given, "--start", 3)
    assert [prompt.frame for prompt in calls[0]["prompts"]] == [3, 3]
    assert (report["first_frame"], report["frames"]) == (3, FRAMES - 3)


def test_resume_extends_a_run_to_a_later_end(track: Track, tmp_path: Path) -> None:
    arguments = ("--point", "12,16", "--out", tmp_path / "out")
    assert track(*arguments, "--end", 3)["frames"] == 3
    report = track(*arguments, "--end", 5, "--resume")
    assert (report["resumed_at"], report["frames"]) == (3, 2)
    assert track(*arguments, "--resume")["frames"] == FRAMES - 5
    assert len(masks_of(tmp_path / "out")) == FRAMES


def test_masks_are_called_after_the_frames(
    run: Run, track: Track, checkpoint: Path, tmp_path: Path
) -> None:
    track("--point", "12,16", "--out", tmp_path / "out", "--names")
    assert list(masks_of(tmp_path / "out")) == [f"{index}.png" for index in range(FRAMES)]
    given = ("--checkpoint", checkpoint, "--point", "1,2", "--names", "--out", tmp_path / "new")
    code, _, err = run("track", tmp_path / "out" / "overlay.mp4", *given)
    assert code == 2 and "leave names out, or give a folder of images" in err


def test_detections_start_objects(track: Track, run: Run, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "found.json"
    path.write_text('{"0": [[4, 8, 20, 24]], "2": [[10, 8, 26, 24], [30, 0, 44, 6]]}')
    out, boxed = tmp_path / "out", tmp_path / "boxed"
    report = track("--detections", path, "--out", out, "--save", "masks")
    assert report["first_frame"] == 0 and report["objects"][0]["frames"] == FRAMES
    assert report["objects"][0]["id"] == 1
    track("--box", "4,8,20,24", "--end", 2, "--out", boxed, "--save", "masks")
    found = masks_of(out)
    for name, labels in masks_of(boxed).items():
        assert np.array_equal(labels, found[name])
    # Standing on the command line itself, they are the same run, which can be resumed; others not.
    call = "track", video, "--save", "masks", "--out", out, "--resume", "--detections"
    assert run(*call, '{"0": [[5, 8, 20, 24]]}')[0] == 2
    for words, message in (
        (("--detections", "{}", "--everything"), "both start objects"),
        (("--detections", "{}", "--direction", "both"), "--detections is tracked forward"),
        (("--detections", '{"x": []}'), '"x" is no number of a frame'),
        (("--detections", '{"0": [[1, 2, 3]]}'), "--detections: "),
        (("--detections", str(tmp_path / "none.json")), "cannot read --detections"),
        (("--detections", str(path), "--prompts", "[1]"), "--prompts, prompt 0: expected an"),
    ):
        code, _, err = run("track", video, "--out", tmp_path / "no", *words)
        assert code == 2 and message in err and err.count("\n") == 1, err
