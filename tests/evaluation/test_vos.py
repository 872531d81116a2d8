"""Evaluation on tiny DAVIS roots: protocol, files, and what is refused."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from vos_benchmark.benchmark import benchmark

from tempomask.data.davis import Davis
from tempomask.errors import InputError
from tempomask.evaluation.vos import evaluate, evaluate_masks
from tempomask.io.images import read_mask
from tempomask.metrics.region_boundary import RegionBoundary
from tempomask.tracking.options import TrackingOptions

Make = Callable[..., Any]


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_perfect_tracker_scores_100(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(cow=clip(5, objects=2), dog=clip(4))
    out = tmp_path / "out"
    summary = evaluate(reading_model(), Davis(root), out=out)
    assert list(summary.scores.values()) == [100] * 5 + [0] * 2
    assert (summary.frames, summary.objects, summary.notes) == (9, 3, ())
    assert summary.per_sequence == {"cow": 100, "dog": 100}
    assert summary.fps is not None and summary.fps > 0
    assert names(out) == [
        *(f"masks/cow/{index:05d}.png" for index in range(5)),
        *(f"masks/dog/{index:05d}.png" for index in range(4)),
        "results.csv",
        "summary.json",
        "tracked/cow.json",
        "tracked/dog.json",
    ]
    for index, labels in enumerate(clip(5, objects=2)):
        path = out / "masks" / "cow" / f"{index:05d}.png"
        assert Image.open(path).mode == "P"
        assert np.array_equal(read_mask(path), labels)
    assert [(row["sequence"], row["object"], row["frames"]) for row in rows(out)] == [
        ("cow", "1", "3"),
        ("cow", "2", "3"),
        ("dog", "1", "2"),
    ]
    assert {row["J&F"] for row in rows(out)} == {"100.000"}


def test_scores_are_means_over_objects_without_first_and_last_frame(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(cow=clip(8, objects=2), dog=clip(6, speed=3))
    summary = evaluate(reading_model(delay=1), Davis(root), out=tmp_path / "out")
    objects = []
    for truth, ids in ((clip(8, objects=2), [1, 2]), (clip(6, speed=3), [1])):
        metric = RegionBoundary(ids)
        for index in range(1, len(truth) - 1):
            metric.update(truth[index - 1], truth[index])
        objects += metric.compute().objects
    assert summary.mean == pytest.approx(100 * np.mean([score.mean for score in objects]))
    assert summary.scores["J"] == pytest.approx(100 * np.mean([s.region.mean for s in objects]))
    assert summary.scores["F"] == pytest.approx(100 * np.mean([s.boundary.mean for s in objects]))
    assert summary.scores["J"] < 100
    table = rows(tmp_path / "out")
    for row, score in zip(table, objects, strict=True):
        assert float(row["J"]) == pytest.approx(100 * score.region.mean, abs=1e-3)
        assert float(row["F"]) == pytest.approx(100 * score.boundary.mean, abs=1e-3)
        assert float(row["J_recall"]) == pytest.approx(100 * score.region.recall, abs=1e-3)
        assert float(row["F_decay"]) == pytest.approx(100 * score.boundary.decay, abs=1e-3)


def test_summary_file(davis: Make, clip: Make, reading_model: Make, tmp_path: Path) -> None:
    summary = evaluate(
        reading_model(),
        Davis(davis(cow=clip(5))),
        out=tmp_path / "out",
        prompt="box",
        options=TrackingOptions(fill_holes=8),
    )
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written == json.loads(json.dumps(summary.to_dict()))
    assert written["J&F"] == written["J"] == written["F"] == 100
    assert (written["frames"], written["model"]) == (5, "reader")
    assert written["FPS"] == summary.fps
    # Two blocks, of which the second runs on even frames: 1/2, 1, 1/2, 1 after the first frame.
    assert written["blocks_run"] == 0.75
    settings = written["settings"]
    assert (settings["prompt"], settings["image_size"]) == ("box", 64)
    assert (settings["fill_holes"], settings["dataset"]) == (8, "DAVIS")


def test_every_object_of_the_first_annotation_is_given(
    davis: Make, clip: Make, reading_model: Make
) -> None:
    """Not one that comes later, and the session knows the video's length and size."""
    later = clip(5, objects=2)
    later[0] = clip(1)[0]
    model = reading_model()
    summary = evaluate(model, Davis(davis(cow=later, dog=clip(4, objects=3))), prompt="mask")
    assert [[p.object_id for p in session.prompts] for session in model.sessions] == [
        [1],
        [1, 2, 3],
    ]
    assert summary.objects == 4
    options = model.sessions[1].options
    assert (options["num_frames"], options["size"]) == (4, (24, 32))
    assert np.array_equal(model.sessions[0].prompts[0].mask, later[0] == 1)


@pytest.mark.parametrize(("prompt", "clicks"), [("click", 0), ("3clicks", 2), ("5clicks", 4)])
def test_click_protocol(
    davis: Make, clip: Make, reading_model: Make, prompt: Any, clicks: int
) -> None:
    """A model that is wrong on the first frame is corrected there only, and by so many clicks."""
    truth = clip(4, objects=2)
    root = davis(cow=truth)
    blank = np.zeros((24, 32, 3), np.uint8)
    Image.fromarray(blank).save(root / "JPEGImages" / "480p" / "cow" / "00000.png")
    model = reading_model()
    evaluate(model, Davis(root), prompt=prompt)
    session = model.sessions[0]
    assert [np.asarray(p.points).tolist() for p in session.prompts] == [[[3, 4]], [[3, 11]]]
    expected = [(1, [(3, 4)])] * clicks + [(2, [(3, 11)])] * clicks
    assert [(given["object_id"], given["points"]) for given in session.corrections] == expected


def test_chosen_sequences_and_merged_objects(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(cow=clip(5, objects=2), dog=clip(4), goat=clip(4))
    model = reading_model()
    summary = evaluate(model, Davis(root, sequences=["goat", "cow"], single_object=True))
    assert list(summary.per_sequence) == ["goat", "cow"]
    assert [[p.object_id for p in s.prompts] for s in model.sessions] == [[1], [1]]
    assert summary.settings["single_object"] is True
    # The model goes on with object 1 alone, so that half of the merged object is lost.
    assert 30 < summary.per_sequence["cow"] < 70


def test_progress_counts_frames(davis: Make, clip: Make, reading_model: Make) -> None:
    calls: list[tuple[str, int, int]] = []
    evaluate(
        reading_model(),
        Davis(davis(cow=clip(3), dog=clip(4))),
        progress=lambda *call: calls.append(call),
    )
    assert calls == [("cow", k, 3) for k in (1, 2, 3)] + [("dog", k, 4) for k in (1, 2, 3, 4)]


def test_an_interrupted_run_keeps_what_is_finished(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(4), dog=clip(4)), tmp_path / "out"

    def stop(name: str, done: int, total: int) -> None:
        if (name, done) == ("dog", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(reading_model(), Davis(root), out=out, progress=stop)
    masks = [f"masks/cow/{k:05d}.png" for k in range(4)]
    assert names(out) == [*masks, "results.csv", "tracked/cow.json"]
    assert [path.name for path in (out / "masks").iterdir()] == ["cow"]
    assert [row["sequence"] for row in rows(out)] == ["cow"]


def test_a_second_run_replaces_the_masks(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(4, speed=2)), tmp_path / "out"
    evaluate(reading_model(), Davis(root), out=out)
    stale = out / "masks" / "cow" / "00009.png"
    shutil.copy(out / "masks" / "cow" / "00001.png", stale)
    evaluate(reading_model(delay=1), Davis(root), out=out)
    assert not stale.exists()
    assert np.array_equal(read_mask(out / "masks" / "cow" / "00002.png"), clip(4, speed=2)[1])


@pytest.mark.parametrize("where", ["folder", "out"])
def test_masks_on_disk_score_the_same(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path, where: str
) -> None:
    root, out = davis(cow=clip(6, objects=2), dog=clip(5, speed=2)), tmp_path / "out"
    tracked = evaluate(reading_model(delay=1), Davis(root), out=out)
    folder = out if where == "out" else out / "masks"
    calls: list[tuple[str, int, int]] = []
    scored = evaluate_masks(
        Davis(root), folder, out=tmp_path / "again", progress=lambda *call: calls.append(call)
    )
    assert (scored.scores, scored.per_sequence) == (tracked.scores, tracked.per_sequence)
    assert (scored.fps, scored.frames, scored.blocks_run) == (None, 11, None)
    assert rows(tmp_path / "again") == rows(out)
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["FPS"] is None
    assert calls[-1] == ("dog", 3, 3)


def test_a_folder_of_masks_scores_as_with_vos_benchmark(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    """The whole way, from files to averages."""
    root = davis(cow=clip(7, objects=3), dog=clip(5, speed=2))
    evaluate(reading_model(delay=2), Davis(root), out=tmp_path / "out")
    masks = tmp_path / "out" / "masks"
    ours = evaluate_masks(Davis(root), masks)
    truth = str(root / "Annotations" / "480p")
    (mean,), (region,), (boundary,), _ = benchmark(
        [truth], [str(masks)], num_processes=1, verbose=False
    )
    found = [ours.scores[name] for name in ("J&F", "J", "F")]
    assert found == pytest.approx([mean, region, boundary], abs=1e-6)
    assert 0 < found[1] < 100


def test_predicted_ids_beyond_the_truth_are_ignored_with_a_note(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(5), dog=clip(5)), tmp_path / "out"
    for summary in (
        evaluate(reading_model(extra_id=9), Davis(root), out=out),
        evaluate_masks(Davis(root), out),
    ):
        assert summary.mean == 100
        assert len(summary.notes) == 2
        assert summary.notes[0].startswith("cow: ") and summary.notes[0].endswith(": 9")
    assert json.loads((out / "summary.json").read_text())["notes"] == list(summary.notes)


def test_plain_masks_and_merged_objects_on_disk(davis: Make, clip: Make, tmp_path: Path) -> None:
    """White masks and label maps are the same prediction where all objects count as one."""
    truth = clip(4, objects=2)
    root = davis(cow=truth)
    for name, values in (("white", (0, 255, 255)), ("labels", (0, 1, 2))):
        (tmp_path / name / "cow").mkdir(parents=True)
        for index in (1, 2):
            image = np.array(values, np.uint8)[truth[index]]
            Image.fromarray(image).save(tmp_path / name / "cow" / f"{index:05d}.png")
        assert evaluate_masks(Davis(root, single_object=True), tmp_path / name).mean == 100
    assert evaluate_masks(Davis(root), tmp_path / "labels").mean == 100
    assert evaluate_masks(Davis(root), tmp_path / "white").mean < 60


def test_missing_predictions_are_refused(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(5), dog=clip(5)), tmp_path / "out"
    evaluate(reading_model(), Davis(root), out=out)
    with pytest.raises(InputError, match="nowhere"):
        evaluate_masks(Davis(root), tmp_path / "nowhere")
    cow = out / "masks" / "cow"
    # The first and the last frame are not scored, and so need no mask.
    (cow / "00000.png").unlink()
    (cow / "00004.png").unlink()
    assert evaluate_masks(Davis(root), out).mean == 100
    (cow / "00002.png").unlink()
    with pytest.raises(InputError, match="00002.png"):
        evaluate_masks(Davis(root), out)
    assert evaluate_masks(Davis(root, sequences=["dog"]), out).mean == 100
    shutil.rmtree(cow)
    with pytest.raises(InputError, match="1 of 2 .*cow"):
        evaluate_masks(Davis(root), out)


def test_predictions_of_another_size_are_refused(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(5)), tmp_path / "out"
    evaluate(reading_model(), Davis(root), out=out)
    path = out / "masks" / "cow" / "00002.png"
    Image.fromarray(np.zeros((12, 16), np.uint8)).save(path)
    with pytest.raises(InputError, match="00002.png"):
        evaluate_masks(Davis(root), out)


def test_what_cannot_be_scored_is_refused_before_tracking(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    """Alone it is refused; beside others it is listed, and the others are tracked."""
    empty = [np.zeros((24, 32), np.uint8), *clip(3)]
    for faulty, message in ((clip(2), "has 2 frames"), (empty, "is empty")):
        model, out = reading_model(), tmp_path / "out"
        root = davis(cow=clip(4), dog=faulty)
        with pytest.raises(InputError, match=message):
            evaluate(model, Davis(root, sequences=["dog"]), out=out)
        assert not model.sessions and not out.exists()
        summary = evaluate(model, Davis(root), out=out)
        assert list(summary.per_sequence) == ["cow"] and len(model.sessions) == 1
        assert message in summary.flaws["dog"]
        assert message in json.loads((out / "summary.json").read_text())["flaws"]["dog"]
        shutil.rmtree(root)
        shutil.rmtree(out)


def test_a_flaw_met_while_scoring_ends_one_sequence_only(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(cow=clip(4), dog=clip(4), elk=clip(4))
    path = root / "Annotations" / "480p" / "dog" / "00002.png"
    path.write_bytes(path.read_bytes()[:-30])  # its header is sound
    summary = evaluate(reading_model(), Davis(root), out=tmp_path / "out")
    assert list(summary.per_sequence) == ["cow", "elk"] and summary.objects == 2
    assert "00002.png" in summary.flaws["dog"]
    assert len(names(tmp_path / "out" / "masks" / "dog")) == 4, "it was tracked all the same"


def test_bad_arguments(davis: Make, clip: Make, reading_model: Make, tmp_path: Path) -> None:
    root = davis(cow=clip(4))
    with pytest.raises(InputError, match="'scribble'"):
        evaluate(reading_model(), Davis(root), prompt="scribble")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'caw'"):
        evaluate(reading_model(), Davis(root, sequences=["caw"]))
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        evaluate(reading_model(), Davis(root), out=tmp_path / "file")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "masks").write_text("x")
    with pytest.raises(InputError, match="masks is a file"):
        evaluate(reading_model(), Davis(root), out=tmp_path / "out")


def test_only_the_first_frames_for_a_quick_look(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(cow=clip(8, objects=2), dog=clip(4))
    summary = evaluate(reading_model(), Davis(root, max_frames=5), out=tmp_path / "out")
    assert (summary.mean, summary.frames) == (100, 9)
    assert len(names(tmp_path / "out" / "masks" / "cow")) == 5
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert written["settings"]["max_frames"] == 5
    assert written["notes"][0].startswith("only the first 5 frames of each sequence")
    again = evaluate_masks(Davis(root, max_frames=5), tmp_path / "out")
    assert (again.mean, again.notes) == (100, summary.notes)
    with pytest.raises(InputError, match="cow .*2 frames"):
        evaluate(reading_model(), Davis(root, max_frames=2))
