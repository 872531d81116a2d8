"""`tempomask eval boxes`: a model that reads the boxes off the frames, and boxes on disk."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from tempomask.cli import main as cli
from tempomask.data.box_tracking import BoxTrackingData
from tempomask.errors import InputError, InputWarning
from tempomask.evaluation.boxes import evaluate_box_files, evaluate_boxes
from tempomask.evaluation.submission import SubmissionFile
from tempomask.tracking.options import TrackingOptions

MakeReading = Callable[..., Any]
SAMURAI = TrackingOptions(memory="samurai")


@pytest.fixture
def otb(tmp_path: Path, clip: Callable[..., Any]) -> Path:
    root = tmp_path / "OTB"
    for name, speed in (("slow", 1), ("fast", 2)):
        (root / name / "img").mkdir(parents=True)
        lines = []
        for index, labels in enumerate(clip(6, speed=speed)):
            frame = np.repeat((labels * 40)[..., None], 3, axis=2)
            Image.fromarray(frame).save(root / name / "img" / f"{index:04d}.png")
            rows, columns = labels.nonzero()
            x, y = columns.min(), rows.min()
            lines.append(f"{x},{y},{columns.max() + 1 - x},{rows.max() + 1 - y}\n")
        (root / name / "groundtruth_rect.txt").write_text("".join(lines))
    return root


def test_a_model_that_sees_everything(
    otb: Path, reading_model: MakeReading, tmp_path: Path
) -> None:
    model = reading_model()
    summary = evaluate_boxes(
        model, BoxTrackingData(otb, "otb"), out=tmp_path / "out", options=SAMURAI
    )
    assert summary.scores.success == pytest.approx(20 / 21)
    assert summary.scores.average_overlap == 1 and summary.frames == 12
    assert [session.options["options"] for session in model.sessions] == [SAMURAI] * 2
    assert model.sessions[0].prompts[0].box.tolist() == [1, 2, 8, 8]
    lines = (tmp_path / "out" / "boxes" / "slow.txt").read_text().splitlines()
    assert lines == (otb / "slow" / "groundtruth_rect.txt").read_text().splitlines()
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert stored["AO"] == 100 and stored["settings"]["layout"] == "otb"
    assert set(stored["sequences"]) == {"slow", "fast"} and stored["FPS"] > 0
    table = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert table[0] == "sequence,AUC,P,P_norm,AO,SR_0.5,SR_0.75" and len(table) == 3
    again = evaluate_box_files(BoxTrackingData(otb, "otb"), tmp_path / "out")
    assert again.scores == summary.scores and again.fps is None


def test_a_model_that_lags(otb: Path, reading_model: MakeReading) -> None:
    """One pixel behind on a box 7 wide: overlap 6/8 on all frames but the first."""
    summary = evaluate_boxes(
        reading_model(delay=1), BoxTrackingData(otb, "otb", sequences=["slow"])
    )
    assert summary.scores.average_overlap == pytest.approx((1 + 5 * 6 / 8) / 6)


def as_test_set(otb: Path, root: Path, layout: str) -> Path:
    """The sequences with their first boxes only, laid out as a test set."""
    for name in ("fast", "slow"):
        truth = (otb / name / "groundtruth_rect.txt").read_text().splitlines()[0] + "\n"
        if layout == "got10k":
            shutil.copytree(otb / name / "img", root / "test" / name)
            (root / "test" / name / "groundtruth.txt").write_text(truth)
        else:
            shutil.copytree(otb / name / "img", root / "TEST" / "frames" / name)
            (root / "TEST" / "anno").mkdir(exist_ok=True)
            (root / "TEST" / "anno" / f"{name}.txt").write_text(truth)
    return root


@pytest.mark.parametrize("layout", ["got10k", "trackingnet"])
def test_zips_for_the_servers(
    otb: Path,
    reading_model: MakeReading,
    tmp_path: Path,
    layout: Literal["got10k", "trackingnet"],
) -> None:
    root, zipped = as_test_set(otb, tmp_path / "set", layout), SubmissionFile(tmp_path / "a.zip")
    data = BoxTrackingData(root, layout, first_only=True)
    with pytest.warns(InputWarning, match="has (180|511) sequences, here are 2"):
        summary = evaluate_boxes(reading_model(), data, submission=zipped)
    assert summary.scores is None and "AO" not in summary.to_dict() and summary.frames == 12
    truth = (otb / "fast" / "groundtruth_rect.txt").read_text().splitlines()
    lines = [",".join(f"{float(value):.3f}" for value in line.split(",")) for line in truth]
    with zipfile.ZipFile(zipped.path) as archive:
        names = archive.namelist()
        name = "fast/fast_001.txt" if layout == "got10k" else "fast.txt"
        assert archive.read(name).decode().splitlines() == lines
        if layout == "got10k":
            assert names[:2] == ["fast/fast_001.txt", "fast/fast_time.txt"] and len(names) == 4
            times = archive.read("slow/slow_time.txt").decode().split()
            assert len(times) == 6 and all(float(value) > 0 for value in times)
        else:
            assert names == ["fast.txt", "slow.txt"]
        archive.extractall(tmp_path / "boxes")
    again = SubmissionFile(tmp_path / "b.zip")
    evaluate_box_files(data, tmp_path / "boxes", submission=again)
    with zipfile.ZipFile(again.path) as archive:
        assert archive.namelist() == names and archive.read(name).decode().splitlines() == lines


def test_zips_that_a_server_would_refuse(otb: Path, tmp_path: Path) -> None:
    root, zipped = as_test_set(otb, tmp_path / "set", "got10k"), SubmissionFile(tmp_path / "a.zip")
    data, mine = BoxTrackingData(root, "got10k", first_only=True), tmp_path / "mine"
    mine.mkdir()
    for name, text in (("fast", "1,2,3,4\n" * 6), ("slow", "1,2,3,4\n" * 5 + "1,2,-3,4\n")):
        (mine / f"{name}.txt").write_text(text)
    for message in ("sequence fast has no times", "fast has 2 times for 6 frames",
                    "sequence slow: the box of frame 5 is none"):  # fmt: skip
        with pytest.raises(InputError, match=message):
            evaluate_box_files(data, mine, submission=zipped)
        count = 2 if "no times" in message else 6
        for name in ("fast", "slow"):
            (mine / f"{name}_time.txt").write_text("0.1\n" * count)
    (mine / "slow.txt").write_text("1,2,3,4\n" * 5)
    with pytest.raises(InputError, match="whole sets only: .* 5 .* 6"):
        evaluate_box_files(data, mine, submission=zipped)
    some = BoxTrackingData(root, "got10k", sequences=["fast"], first_only=True)
    with pytest.raises(InputError, match="--sequences"):
        evaluate_box_files(some, mine, submission=zipped)
    with pytest.raises(InputError, match="otb"):
        evaluate_box_files(BoxTrackingData(otb, "otb"), mine, submission=zipped)
    shutil.rmtree(root / "test" / "slow")
    (root / "test" / "list.txt").write_text("fast\nslow\n")
    lacking = BoxTrackingData(root, "got10k", first_only=True)
    with pytest.raises(InputError, match="whole sets only: .*slow"):
        evaluate_box_files(lacking, mine, submission=zipped)
    assert not zipped.path.exists()


def test_boxes_that_do_not_fit(otb: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    with pytest.raises(InputError, match="no such folder of boxes"):
        evaluate_box_files(BoxTrackingData(otb, "otb"), folder)
    folder.mkdir()
    with pytest.raises(InputError, match="fast"):
        evaluate_box_files(BoxTrackingData(otb, "otb"), folder)
    for name in ("slow", "fast"):
        (folder / f"{name}.txt").write_text("1,2,3,4\n" * 5)
    with pytest.raises(InputError, match=" 5 boxes.* 6 frames"):
        evaluate_box_files(BoxTrackingData(otb, "otb"), folder)


def test_a_flaw_ends_one_sequence_only(
    otb: Path, reading_model: MakeReading, tmp_path: Path
) -> None:
    (otb / "fast" / "img" / "0003.png").write_bytes(b"damaged")
    summary = evaluate_boxes(reading_model(), BoxTrackingData(otb, "otb"), out=tmp_path / "out")
    assert list(summary.per_sequence) == ["slow"] and "0003.png" in summary.flaws["fast"]
    assert [p.name for p in (tmp_path / "out" / "boxes").iterdir()] == ["slow.txt"]
    lines = (otb / "fast" / "groundtruth_rect.txt").read_text().splitlines()
    (otb / "fast" / "groundtruth_rect.txt").write_text("\n".join(["900,1,4,4", *lines[1:]]))
    model = reading_model()
    summary = evaluate_boxes(model, BoxTrackingData(otb, "otb"))
    assert "lies outside" in summary.flaws["fast"] and len(model.sessions) == 1
    with pytest.raises(InputError, match="lies outside"):
        evaluate_boxes(model, BoxTrackingData(otb, "otb", sequences=["fast"]))


def test_a_flaw_is_told_at_the_end_with_exit_code_1(
    otb: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "slow.txt").write_text((otb / "slow" / "groundtruth_rect.txt").read_text())
    (tmp_path / "fast.txt").write_text("1,2,3,4\n")
    arguments = ["eval", "boxes", str(otb), "--layout", "otb", "--boxes", str(tmp_path)]
    assert cli.main(arguments) == 1
    told = capfd.readouterr()
    assert "1 sequences" in told.out and "has 1 boxes" in told.err
    assert told.err.rstrip().endswith("left out of the scores: fast")


def test_the_command(otb: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    for name in ("slow", "fast"):
        (folder / name).mkdir(parents=True)
        truth = (otb / name / "groundtruth_rect.txt").read_text()
        (folder / name / f"{name}_001.txt").write_text(truth)
    arguments = ["eval", "boxes", str(otb), "--layout", "otb", "--boxes", str(folder)]
    assert cli.main([*arguments, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)["P"] == 100
    assert cli.main(arguments) == 0
    assert "2 sequences, 12 frames" in capfd.readouterr().out
    assert cli.main([*arguments, "--memory", "samurai"]) == 2
    assert "without a model; leave --memory out" in capfd.readouterr().err
    assert cli.main(["eval", "boxes", str(otb), "--layout", "vot"]) == 2
    said = capfd.readouterr().err
    assert "--layout" in said and "lasot" in said
