"""Evaluating instance segmentation: results files, and a model on small videos."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.data.youtube_vis import YouTubeVIS
from tempomask.errors import InputError
from tempomask.evaluation.instance_results import read_predictions
from tempomask.evaluation.submission import SubmissionFile
from tempomask.evaluation.video_instances import (
    Scoring,
    categories_of,
    evaluate_instances,
    evaluate_predictions,
)
from tempomask.instances.model import InstanceModel
from tempomask.models.instances.segmenter import InstanceSegmenter
from tempomask.rle import encode_rle, run_lengths

MakeVideoSet = Callable[..., Path]
MakeInstanceConfig = Callable[..., Any]


@pytest.fixture
def model(instance_config: MakeInstanceConfig) -> InstanceModel:
    """A random segmenter that knows cat, dog and fox."""
    torch.manual_seed(0)
    return InstanceModel(InstanceSegmenter(instance_config()))


def perfect_rows(path: Path, score: float = 0.9) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    keys = ("video_id", "category_id", "segmentations")
    return [{**{key: a[key] for key in keys}, "score": score} for a in content["annotations"]]


def written(path: Path, rows: Any) -> Path:
    target = path.parent / "results.json"
    target.write_text(json.dumps(rows))
    return target


def test_perfect_results(video_set: MakeVideoSet, tmp_path: Path) -> None:
    path = video_set()
    found = evaluate_predictions(
        YouTubeVIS(path), written(path, perfect_rows(path)), out=tmp_path / "out"
    )
    scores = found.to_dict()
    assert [scores[name] for name in ("AP", "AP50", "AP75", "AR1", "AR10")] == [100.0] * 5
    assert scores["AP_large"] is None
    assert (found.videos, found.frames, found.predictions, scores["tracks"]) == (2, 10, 4, 4)
    assert scores["classes"] == {"cat": 100.0, "dog": 100.0}
    assert json.loads((tmp_path / "out/summary.json").read_text())["AP"] == 100.0
    table = (tmp_path / "out/classes.csv").read_text().splitlines()
    assert table == ["class,AP,AR10,tracks", "cat,100.000,100.000,2", "dog,100.000,100.000,2"]


def test_a_missing_video_costs_half(video_set: MakeVideoSet) -> None:
    path = video_set()
    rows = [row for row in perfect_rows(path) if row["video_id"] == 1]
    found = evaluate_predictions(YouTubeVIS(path), written(path, rows))
    # Recall reaches one half: 51 of 101 levels have precision 1.
    assert found.to_dict()["AP"] == pytest.approx(100 * 51 / 101)
    only = evaluate_predictions(YouTubeVIS(path, videos=["video1"]), written(path, rows))
    assert only.to_dict()["AP"] == 100.0 and only.videos == 1


def test_nothing_found_is_a_result(video_set: MakeVideoSet) -> None:
    path = video_set()
    assert evaluate_predictions(YouTubeVIS(path), written(path, [])).to_dict()["AP"] == 0.0


def row(**values: Any) -> dict[str, Any]:
    return {"video_id": 1, "category_id": 3, "segmentations": [None] * 5, "score": 0.5, **values}


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ({}, "is an object of 0, not a list"),
        ([row(), 3], "prediction 1: row: it is 3, not an object"),
        ([{"video_id": 1}], "prediction 0: row: it has no category_id"),
        ([row(video_id=9)], "prediction 0: no video 9"),
        ([row(category_id=4)], "prediction 0: category 4 is not in instances.json"),
        ([row(score="high")], 'score is "high", not a finite number'),
        ([row(score=float("nan"))], "score is NaN, not a finite number"),
        ([row(segmentations=[None] * 4)], "4 segmentations, but video 1"),
        ([row(segmentations=None)], "segmentations is null, not a list"),
        (
            [row(segmentations=[encode_rle(np.ones((9, 9))), *[None] * 4])],
            r"prediction 0: frame 0 of video 1 \(video1\): a mask of",
        ),
    ],
)
def test_bad_results(video_set: MakeVideoSet, rows: Any, words: str) -> None:
    path = video_set()
    with pytest.raises(InputError, match=words):
        read_predictions(written(path, rows), YouTubeVIS(path))


def test_files_without_ground_truth(video_set: MakeVideoSet, model: InstanceModel) -> None:
    path = video_set(lambda content: content.update(annotations=None))
    with pytest.raises(InputError, match="no annotations to score against"):
        evaluate_predictions(YouTubeVIS(path), written(path, []))
    with pytest.raises(InputError, match="name an output folder"):
        evaluate_instances(model, YouTubeVIS(path))
    found = evaluate_instances(model, YouTubeVIS(path, videos=["1"]), out=path.parent / "out")
    assert found.scores is None and found.to_dict()["tracks"] is None
    rows = json.loads((path.parent / "out/results.json").read_text())
    assert len(rows) == found.predictions == 10
    assert not (path.parent / "out/classes.csv").exists()


def test_a_model_and_its_results_file_score_alike(
    video_set: MakeVideoSet, model: InstanceModel, tmp_path: Path
) -> None:
    path = video_set()
    calls: list[tuple[str, int, int]] = []
    out = tmp_path / "out"
    ran = evaluate_instances(
        model, YouTubeVIS(path), out=out, limit=6, progress=lambda *call: calls.append(call)
    )
    read = evaluate_predictions(YouTubeVIS(path), out / "results.json")
    assert ran.scores is not None and read.scores is not None
    ours, theirs = (
        {name: value for name, value in found.to_dict().items() if name.startswith("A")}
        for found in (ran, read)
    )
    assert ours == theirs
    assert (ran.videos, ran.frames, ran.predictions) == (2, 10, 12)
    assert calls[0] == ("video1", 1, 5) and calls[-1] == ("video2", 5, 5)
    assert ran.fps is not None and ran.layers_run == model.config.query_decoder.layers
    without_files = evaluate_instances(model, YouTubeVIS(path), limit=6)
    assert without_files.predictions == 12
    rows = json.loads((out / "results.json").read_text())
    # Fox is not a class of the data: it takes no place among the six.
    assert {row["category_id"] for row in rows} <= {3, 7}
    for number in (1, 2):
        scores = [row["score"] for row in rows if row["video_id"] == number]
        assert scores == sorted(scores, reverse=True) and len(scores) == 6


def test_an_offline_model_is_scored(
    instance_config: MakeInstanceConfig, video_set: MakeVideoSet
) -> None:
    torch.manual_seed(0)
    offline = InstanceModel(InstanceSegmenter(instance_config(tracker=True, offline=True)))
    found = evaluate_instances(offline, YouTubeVIS(video_set()), limit=3)
    assert (found.videos, found.frames, found.predictions) == (2, 10, 6)
    assert found.fps is not None and found.layers_run == 4


def test_a_missing_image_leaves_out_one_video(
    video_set: MakeVideoSet, model: InstanceModel, tmp_path: Path
) -> None:
    path = video_set()
    (path.parent / "JPEGImages/video2/00004.png").unlink()
    found = evaluate_instances(model, YouTubeVIS(path), out=tmp_path / "out")
    assert list(found.flaws) == ["video2"] and "no image" in found.flaws["video2"]
    rows = json.loads((tmp_path / "out" / "results.json").read_text())
    assert {row["video_id"] for row in rows} == {1} and found.videos == 1
    with pytest.raises(InputError, match="no image"):
        evaluate_instances(model, YouTubeVIS(path, videos=["video2"]), out=tmp_path / "none")
    assert list((tmp_path / "none").iterdir()) == []


def test_classes_are_matched_by_name(video_set: MakeVideoSet, model: InstanceModel) -> None:
    dataset = YouTubeVIS(video_set())
    assert categories_of(("Dog", "fox", "cat"), dataset) == {0: 7, 2: 3}
    with pytest.raises(InputError, match=r"1 classes .*\(dog\)"):
        categories_of(("cat", "fox"), dataset)
    with pytest.raises(InputError, match="'x'"):
        YouTubeVIS(dataset.path, videos=["x"])
    with pytest.raises(InputError, match="limit"):
        evaluate_instances(model, dataset, limit=0)


def part_of(path: Path, video: int) -> Path:
    """The truth of one video in a file of its own, as gt_long.json of YouTube-VIS 2022."""
    content = json.loads(path.read_text())
    content["videos"] = [v for v in content["videos"] if v["id"] == video]
    content["annotations"] = [a for a in content["annotations"] if a["video_id"] == video]
    target = path.with_name(f"gt_{video}.json")
    target.write_text(json.dumps(content))
    return target


def test_boundaries_and_parts_are_scored_beside_the_whole(
    video_set: MakeVideoSet, model: InstanceModel, tmp_path: Path
) -> None:
    path = video_set()
    rows = [row for row in perfect_rows(path) if row["video_id"] == 2]
    parts = tuple(YouTubeVIS(part_of(path, number)) for number in (1, 2))
    scoring = Scoring(boundary=True, parts=parts)
    found = evaluate_predictions(YouTubeVIS(path), written(path, rows), scoring=scoring).to_dict()
    more = {name: scores["AP"] for name, scores in found["more"].items()}
    half = pytest.approx(100 * 51 / 101)
    wanted = {"boundary": half, "gt_1": 0, "gt_1 boundary": 0, "gt_2": 100, "gt_2 boundary": 100}
    assert more == wanted and found["AP"] == half
    # As on the server: the file with all videos has no truth, its parts have.
    bare = video_set(lambda content: content.update(annotations=None))
    ran = evaluate_instances(model, YouTubeVIS(bare), out=tmp_path / "out", scoring=scoring)
    assert ran.scores is None and list(ran.more) == list(wanted)[1:]
    read = evaluate_predictions(YouTubeVIS(bare), tmp_path / "out/results.json", scoring=scoring)
    assert read.to_dict()["more"] == ran.to_dict()["more"]
    with pytest.raises(InputError, match=r"gt_1.json is no part of .*, which does not have the vi"):
        evaluate_predictions(
            YouTubeVIS(parts[1].path), written(path, rows), scoring=Scoring(parts=parts[:1])
        )
    with pytest.raises(InputError, match="has no annotations; a part"):
        evaluate_predictions(
            YouTubeVIS(path), written(path, rows), scoring=Scoring(parts=(YouTubeVIS(bare),))
        )


def test_submissions_hold_checked_results(
    video_set: MakeVideoSet, model: InstanceModel, tmp_path: Path
) -> None:
    path = video_set(lambda content: content.update(annotations=None))
    dataset, zipped = YouTubeVIS(path), SubmissionFile(tmp_path / "hand-in.zip")
    ran = evaluate_instances(model, dataset, submission=zipped)
    with zipfile.ZipFile(zipped.path) as archive:
        assert archive.namelist() == ["results.json"]
        rows = json.loads(archive.read("results.json"))
    assert len(rows) == ran.predictions > 0
    assert all(m is None or type(m["counts"]) is str for r in rows for m in r["segmentations"])
    # A file from elsewhere, with run lengths as lists, which the servers do not read.
    mask = rows[0]["segmentations"][0] or encode_rle(np.ones((32, 48)))
    counts = [int(n) for n in run_lengths(mask)]
    plain = [row(segmentations=[{**mask, "counts": counts}, *[None] * 4])]
    evaluate_predictions(dataset, written(path, plain), submission=zipped)
    with zipfile.ZipFile(zipped.path) as archive:
        (sent,) = json.loads(archive.read("results.json"))
    assert sent["segmentations"] == [mask, *[None] * 4] and sent["score"] == 0.5
    assert list(read_predictions(zipped.path, dataset)) == [1]
    with zipfile.ZipFile(zipped.path, "w") as archive:
        archive.writestr("results/results.json", "[]")
    with pytest.raises(InputError, match=r"has results at its root, .* results.json; zip the file"):
        read_predictions(zipped.path, dataset)
    zipped.path.unlink()
    with pytest.raises(InputError, match="no predictions"):
        evaluate_predictions(dataset, written(path, []), submission=zipped)
    with pytest.raises(InputError, match="no video 9"):
        evaluate_predictions(dataset, written(path, [row(video_id=9)]), submission=zipped)
    (path.parent / "JPEGImages/video2/00004.png").unlink()
    with pytest.raises(InputError, match=r"is not written, as a server takes whole .*no image"):
        evaluate_instances(model, dataset, out=tmp_path / "out", submission=zipped)
    assert not zipped.path.exists() and (tmp_path / "out/summary.json").exists()
