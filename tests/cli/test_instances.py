"""`tempomask instances`, `eval youtube-vis` and `data` with a tiny random model."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.cli import run as cli_run
from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.data.youtube_vis_check import check
from tempomask.instances.session import InstanceSession
from tempomask.io.journal import open_journal
from tempomask.io.video import open_video
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.weights.own import save_instance_segmenter

Run = Callable[..., tuple[int, str, str]]
Follow = Callable[..., dict[str, Any]]
FRAMES = 7  # of the fixture `video`


@pytest.fixture(scope="module", params=["minvis", "dvis"])
def weights(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    instance_config: Callable[..., Any],
) -> Path:
    torch.manual_seed(1)
    segmenter = InstanceSegmenter(instance_config(tracker=request.param == "dvis"))
    path = tmp_path_factory.mktemp(request.param) / "tiny.safetensors"
    save_instance_segmenter(segmenter, path)
    return path


@pytest.fixture
def follow(run: Run, video: Path, weights: Path) -> Follow:
    """`tempomask instances` on the small video; its JSON. Nearly every track is shown."""

    def call(*arguments: object, code: int = 0) -> dict[str, Any]:
        found, out, err = run(
            "instances", video, "--checkpoint", weights, "--json",
            "--dtype", "float32", "--min-score", "0.001", "--max-overlap", "1", *arguments,
        )  # fmt: skip
        assert found == code, err
        return json.loads(out)

    return call


def test_everything_is_written(follow: Follow, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = follow("--out", out, "--save", "overlay,json,tracks,boxes,masks")
    assert report["frames"] == FRAMES and not report["interrupted"]
    assert report["tracks"] and report["layers_run"] == 4.0
    assert set(report["files"]) == {"overlay", "json", "tracks", "boxes", "masks", "frames"}
    with open_video(out / "overlay.mp4") as overlay:
        assert (overlay.num_frames, overlay.size) == (FRAMES, (32, 48))
    rows = list(csv.DictReader((out / "tracks.csv").open()))
    assert [int(row["track"]) for row in rows] == [track["id"] for track in report["tracks"]]
    assert [row["class"] for row in rows] == [track["class"] for track in report["tracks"]]
    assert {row["class"] for row in rows} <= {"cat", "dog", "fox"}
    boxes = list(csv.DictReader((out / "boxes.csv").open()))
    assert len(boxes) == sum(track["frames"] for track in report["tracks"])
    first = boxes[0]
    assert (out / "masks" / first["track"] / f"{int(first['frame']):05d}.png").exists()


def test_the_json_is_youtube_vis(follow: Follow, tmp_path: Path) -> None:
    report = follow("--out", tmp_path / "out", "--save", "json")
    path = tmp_path / "out/instances.json"
    dataset = YouTubeVIS(path)
    assert dataset.classes == ("cat", "dog", "fox") and len(dataset.videos[0]) == FRAMES
    # Only the images are missing: they are in the video.
    assert all("images" in line for line in check(path))
    annotations = dataset.annotations(1)
    assert [a.id for a in annotations] == [track["id"] for track in report["tracks"]]
    for record in open_journal(tmp_path / "out/frames.jsonl").records():
        for track_id, mask in zip(record.ids, record.masks, strict=True):
            annotation = next(a for a in annotations if a.id == track_id)
            assert np.array_equal(annotation.mask(record.index), mask)
    entry = json.loads(path.read_text())["annotations"][0]
    assert entry["score"] == report["tracks"][0]["score"]
    assert len(entry["bboxes"]) == len(entry["scores"]) == FRAMES


def test_half_precision(follow: Follow, tmp_path: Path) -> None:
    """The default on CPUs with matrix units; overlapping tracks are compared in it as well."""
    out = tmp_path / "out"
    report = follow("--out", out, "--dtype", "bfloat16", "--max-overlap", "0.8")
    assert report["frames"] == FRAMES and report["tracks"]
    with open_video(out / "overlay.mp4") as overlay:
        assert overlay.num_frames == FRAMES


def test_nothing_found_is_a_result(run: Run, video: Path, weights: Path, tmp_path: Path) -> None:
    code, out, err = run(
        "instances", video, "--checkpoint", weights, "--json", "--dtype", "float32",
        "--min-score", "1", "--out", tmp_path / "out", "--save", "overlay,json,tracks,boxes",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert report["tracks"] == [] and report["frames"] == FRAMES
    assert json.loads((tmp_path / "out/instances.json").read_text())["annotations"] == []
    assert len((tmp_path / "out/tracks.csv").read_text().splitlines()) == 1
    with open_video(tmp_path / "out/overlay.mp4") as overlay:
        assert overlay.num_frames == FRAMES


@pytest.mark.parametrize("stop_after", [1, 4])
def test_a_stopped_run_goes_on_with_the_same_ids(
    follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    whole = follow("--out", tmp_path / "whole", "--save", "json,tracks,overlay,masks")
    stopped = tmp_path / "stopped"
    step = InstanceSession.step
    taken: list[int] = []

    def interrupted(self: InstanceSession, frame: Any) -> Any:
        taken.append(1)
        if len(taken) == stop_after:
            signal.raise_signal(signal.SIGINT)
        return step(self, frame)

    monkeypatch.setattr(InstanceSession, "step", interrupted)
    options = ("--out", stopped, "--save", "json,tracks,overlay,masks")
    first = follow(*options, code=130)
    assert first["interrupted"] and first["frames"] == stop_after
    assert len(YouTubeVIS(stopped / "instances.json").videos[0]) == stop_after
    taken[:] = [1] * 100
    second = follow(*options, "--resume")
    # No frame is taken twice.
    assert second["resumed_at"] == stop_after and len(taken) == 100 + FRAMES - stop_after
    assert second["tracks"] == whole["tracks"]
    for name in ("instances.json", "tracks.csv", "frames.jsonl"):
        assert (stopped / name).read_text() == (tmp_path / "whole" / name).read_text(), name
    with open_video(stopped / "overlay.mp4") as overlay:
        assert overlay.num_frames == FRAMES
    # A run that is through keeps no session: its tracks are found again, its files stay.
    assert not (stopped / "session.safetensors").exists()
    third = follow(*options, "--resume")
    assert third["tracks"] == whole["tracks"]


def test_a_run_without_a_kept_session_starts_again(
    follow: Follow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a crash: the frames are there, the session is not."""
    monkeypatch.setattr(cli_run, "KEEP_EVERY", 1000)
    out = tmp_path / "out"
    whole = follow("--out", out, "--save", "json")
    assert not (out / "session.safetensors").exists()
    lines = (out / "frames.jsonl").read_text().splitlines(keepends=True)
    (out / "frames.jsonl").write_text("".join(lines[:4]))
    again = follow("--out", out, "--save", "json", "--resume")
    assert again["frames"] == FRAMES - 3 and again["resumed_at"] == 3
    assert again["tracks"] == whole["tracks"]
    assert "".join(lines) == (out / "frames.jsonl").read_text()


def test_other_settings_are_refused(follow: Follow, run: Run, video: Path, weights: Path,
                                    tmp_path: Path) -> None:  # fmt: skip
    out = tmp_path / "out"
    follow("--out", out, "--save", "tracks")
    code, _, err = run(
        "instances", video, "--checkpoint", weights, "--out", out, "--save", "tracks", "--resume"
    )
    assert code == 2 and "max_overlap=1.0" in err
    # Without --resume the earlier results give way.
    report = follow("--out", out, "--save", "json")
    assert report["frames"] == FRAMES and not (out / "tracks.csv").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--save", "film"), "--save film: unknown"),
        (("--min-score", "2"), "min_score must be from 0 to 1"),
        (("--start", "9"), "beyond the video's 7 frames"),
        (("--start", "3", "--end", "3"), "leaves no frame"),
        (("--router", "fast"), 'unable to convert "fast"'),
        (("--router", "tar"), "has no TAR weights"),
        (("--router", "9"), "9"),
        (("--classes", "names.txt"), "cannot read the classes file names.txt"),
    ],
)
def test_bad_input(
    run: Run, video: Path, weights: Path, tmp_path: Path, arguments: Any, words: str
) -> None:
    code, out, err = run(
        "instances", video, "--checkpoint", weights, "--out", tmp_path / "out", *arguments
    )
    assert (code, out) == (2, "") and words in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_kind_of_run(
    run: Run, video: Path, weights: Path, checkpoint: Path, tmp_path: Path
) -> None:
    run("track", video, "--checkpoint", checkpoint, "--point", "12,16", "--out", tmp_path / "out")
    code, _, err = run("instances", video, "--checkpoint", weights, "--out", tmp_path / "out")
    assert code == 2 and "is of a run of `tempomask track`" in err


def test_a_fixed_number_of_layers_and_other_names(follow: Follow, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("one\ntwo\nthree\n")
    report = follow("--out", tmp_path / "out", "--router", "2", "--classes", names)
    assert report["layers_run"] == 2.0
    assert {track["class"] for track in report["tracks"]} <= {"one", "two", "three"}


def test_part_of_a_video(follow: Follow, tmp_path: Path) -> None:
    report = follow("--out", tmp_path / "out", "--start", "2", "--end", "5")
    assert report["frames"] == 3
    records = open_journal(tmp_path / "out/frames.jsonl").records()
    assert [record.index for record in records] == [2, 3, 4]
    assert {track["first_frame"] for track in report["tracks"]} <= {2, 3, 4}
    # A later end can extend the run.
    assert (tmp_path / "out/session.safetensors").exists()
    report = follow("--out", tmp_path / "out", "--start", "2", "--resume")
    assert (report["resumed_at"], report["frames"]) == (5, 2)


def test_eval_youtube_vis(run: Run, weights: Path, video_set: Any, tmp_path: Path) -> None:
    path, out = video_set(), tmp_path / "out"
    code, text, err = run(
        "eval",
        "youtube-vis",
        path,
        "--checkpoint",
        weights,
        "--out",
        out,
        "--json",
        "--dtype",
        "float32",
    )
    assert code == 0, err
    scores = json.loads(text)
    assert scores["frames"] == 10 and scores["layers_run"] == 4.0
    arguments = ("eval", "youtube-vis", path, "--predictions", out / "results.json")
    code, text, err = run(*arguments)
    assert code == 0 and "AP75" in text and "2 videos, 10 frames, 20 predictions" in text
    zipped = tmp_path / "hand-in.zip"
    code, text, err = run(*arguments, "--boundary", "--part", path, "--submission", zipped)
    assert code == 0 and "instances boundary" in text and zipped.is_file(), err
    code, _, err = run(*arguments, "--submission", zipped, "--videos", "1")
    assert code == 2 and "--submission needs all videos; leave --videos out" in err
    code, _, err = run(*arguments, "--checkpoint", weights)
    assert code == 2 and "without a model; leave --checkpoint out" in err
    code, _, err = run("eval", "youtube-vis", tmp_path / "none.json", "--predictions", out)
    assert code == 2 and "cannot read annotations" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["videos"][1].update(width=40), "say 40 x 32"),
        (lambda c: c["videos"][1]["file_names"].__setitem__(3, "gone.png"), "no image"),
        (
            lambda c: c["annotations"][3]["segmentations"].__setitem__(4, [[1, 2]]),
            "annotation 4, frame 4 of video 2",
        ),
    ],
)
def test_eval_leaves_a_faulty_video_out(
    run: Run, weights: Path, video_set: Any, tmp_path: Path, change: Any, words: str
) -> None:
    """Found half-way through the set as well; the others are scored, and the exit code says so."""
    code, out, err = run(
        "eval", "youtube-vis", video_set(change), "--checkpoint", weights, "--out",
        tmp_path / "out", "--dtype", "float32",
    )  # fmt: skip
    assert code == 1 and "1 videos" in out and words in err
    assert len([line for line in err.strip().splitlines() if "error" in line.casefold()]) == 1
    assert "left out of the scores" in err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c["categories"].append({"id": 9, "name": "horse"}), "does not know (horse)"),
        (lambda c: [video.update(width=40) for video in c["videos"]], "say 40 x 32"),
    ],
)
def test_eval_of_a_set_without_one_usable_video(
    run: Run, weights: Path, video_set: Any, tmp_path: Path, change: Any, words: str
) -> None:
    """Bad input: one line, and no results file that looks whole."""
    code, out, err = run(
        "eval", "youtube-vis", video_set(change), "--checkpoint", weights, "--out",
        tmp_path / "out", "--dtype", "float32",
    )  # fmt: skip
    assert (code, out) == (2, "") and words in err
    assert len([line for line in err.strip().splitlines() if "error" in line.casefold()]) == 1
    assert not list((tmp_path / "out").glob("*"))


def test_data_check(run: Run, video_set: Any) -> None:
    path = video_set()
    assert run("data", "check", path)[:2] == (0, "nothing wrong\n")
    (path.parent / "JPEGImages/video1/00001.png").unlink()
    code, out, err = run("data", "check", path, "--decode")
    assert code == 1 and len(out.splitlines()) == 1 and "video 1: no image" in out
    assert "1 problem" in err
