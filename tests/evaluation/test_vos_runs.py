"""What a run reads, keeps, resumes, splits and hands in."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tempomask.data import sequences as reading
from tempomask.data import vos_sets
from tempomask.data.davis import Davis
from tempomask.errors import InputError
from tempomask.evaluation.protocols import LVOS, SAV, YOUTUBE_VOS
from tempomask.evaluation.submission import SubmissionFile
from tempomask.evaluation.vos import Shard, evaluate, evaluate_masks
from tempomask.io.images import read_mask
from tempomask.model import Model
from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tests.evaluation import vos_layouts as tiny
from tests.evaluation.test_vos_protocols import lvos, lvos_truth, stems, write_clip, youtube
from tests.evaluation.test_with_a_network import CONFIG

Make = Callable[..., Any]


@pytest.fixture(scope="module")
def network() -> Model:
    """With random weights, by which objects are always present: masks are not empty."""
    torch.manual_seed(0)
    segmenter = Segmenter(CONFIG)
    with torch.no_grad():
        segmenter.mask_decoder.object_score_head.layers[-1].bias.fill_(5.0)  # type: ignore[operator]
    return Model(segmenter)


def test_only_first_masks_are_read_before_a_video_is_tracked(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = davis(cow=clip(5, objects=2), dog=clip(4))
    events: list[str] = []
    real = reading.read_values

    def spy(path: Path) -> np.ndarray:
        events.append(f"{path.parent.name}/{path.stem}")
        return real(path)

    monkeypatch.setattr(reading, "read_values", spy)
    evaluate(
        reading_model(),
        Davis(root),
        progress=lambda name, done, total: events.append(f"{name} {done}"),
    )
    tracked = events[: events.index("cow 5")]
    assert {event for event in tracked if "/" in event} == {"cow/00000", "dog/00000"}
    then = events[events.index("cow 5") : events.index("dog 4")]
    assert {event for event in then if "/" in event} == {
        *(f"cow/{k:05d}" for k in (1, 2, 3)),
        "dog/00000",
    }


def test_poisoned_later_masks_change_nothing_but_scores(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(cow=clip(5, objects=2))
    evaluate(reading_model(delay=1), Davis(root), out=tmp_path / "clean")
    for index in range(1, 5):
        path = root / "Annotations" / "480p" / "cow" / f"{index:05d}.png"
        Image.fromarray(np.full((24, 32), 2, np.uint8)).save(path)
    poisoned = evaluate(reading_model(delay=1), Davis(root), out=tmp_path / "poisoned")
    assert poisoned.mean < 50
    for index in range(5):
        file = f"masks/cow/{index:05d}.png"
        assert (tmp_path / "clean" / file).read_bytes() == (
            tmp_path / "poisoned" / file
        ).read_bytes()


def test_late_objects_are_given_by_their_own_first_masks(
    network: Model, reading_model: Make, tmp_path: Path
) -> None:
    """The other objects of that label map, poisoned here, are not given again."""
    lvos(tmp_path / "lvos")
    base, names = tmp_path / "lvos" / "valid", stems(9, 5, 8, 1)
    truth = lvos_truth(0)
    late = truth[3].copy()
    late[late == 1] = 0
    late[-20:, -20:] = 1
    tiny.save(base / "Annotations" / "vid0" / f"{names[3]}.png", late)
    model, data = reading_model(), vos_sets.lvos(tmp_path / "lvos", sequences=["vid0"])
    evaluate(model, data, protocol=LVOS)
    (session,) = model.sessions
    assert session.prompts == [
        Prompt(0, 1, mask=truth[0] == 1),
        Prompt(3, 2, mask=truth[3] == 2),
    ]
    evaluate(network, data, protocol=LVOS, out=tmp_path / "out")
    shown = set[int]()
    for result in network.track(base / "JPEGImages" / "vid0", session.prompts):
        shown |= set(np.unique(result.label_map()).tolist())
        written = read_mask(tmp_path / "out" / "masks" / "vid0" / f"{names[result.index]}.png")
        assert np.array_equal(written, result.label_map())
    assert shown == {0, 1, 2}


def test_objects_that_may_overlap_get_a_folder_each(network: Model, tmp_path: Path) -> None:
    root, every = tmp_path / "sav", stems(9)
    tiny.save_frames(root / "JPEGImages_24fps" / "a", every)
    clips = [tiny.blobs(3, (1,), 9), tiny.blobs(4, (1,), 9)]
    for i, clip in enumerate(clips):
        folder = root / "Annotations_6fps" / "a" / f"{i:03d}"
        write_clip(folder, every[::4], [255 * labels for labels in clip[::4]])
    out, data = tmp_path / "out", vos_sets.sav(root)
    summary = evaluate(network, data, protocol=SAV, out=out)
    assert list(summary.rows) == [("a", 0), ("a", 1)] and summary.frames == 9
    prompts = [Prompt(0, i, mask=clip[0] > 0) for i, clip in enumerate(clips)]
    overlap = 0
    for result in network.track(root / "JPEGImages_24fps" / "a", prompts):
        overlap += int(result.masks.all(axis=0).sum())
        for i in range(2):
            path = out / "masks" / "a" / f"{i:03d}" / f"{every[result.index]}.png"
            assert np.array_equal(read_mask(path) > 0, result.masks[i])
    assert overlap > 0
    again = evaluate_masks(data, out, protocol=SAV)
    assert (again.scores, again.rows) == (summary.scores, summary.rows)


def test_a_resumed_run_equals_one_in_one_go(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root, out = davis(cow=clip(4), dog=clip(6, speed=2), elk=clip(5)), tmp_path / "out"

    def stop(name: str, done: int, total: int) -> None:
        if (name, done) == ("dog", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(reading_model(delay=1), Davis(root), out=out, progress=stop)
    # Masks without their record: killed between the two.
    shutil.copytree(out / "masks" / "cow", out / "masks" / "elk")
    model = reading_model(delay=1)
    resumed = evaluate(model, Davis(root), out=out, resume=True)
    assert len(model.sessions) == 2, "dog and elk, not cow"
    whole = evaluate(reading_model(delay=1), Davis(root), out=tmp_path / "whole")
    assert (resumed.scores, resumed.rows) == (whole.scores, whole.rows)
    assert (resumed.blocks_run, resumed.frames) == (whole.blocks_run, whole.frames)
    assert resumed.fps is not None and resumed.fps > 0
    with pytest.raises(InputError, match="prompt mask, .* box"):
        evaluate(
            reading_model(), Davis(root, sequences=["cow"]), out=out, prompt="box", resume=True
        )
    model = reading_model()
    evaluate(model, Davis(root), out=out)
    assert len(model.sessions) == 3, "without resume, all anew"


def test_shards_together_are_the_whole(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    root = davis(**{name: clip(4 + k, speed=2) for k, name in enumerate("abcde")})
    whole = evaluate(reading_model(delay=1), Davis(root))
    out = tmp_path / "out"
    parts = [
        evaluate(reading_model(delay=1), Davis(root), out=out, shard=Shard.of(f"{k}/2"))
        for k in (1, 2)
    ]
    assert [list(part.per_sequence) for part in parts] == [["a", "c", "e"], ["b", "d"]]
    assert json.loads((out / "summary-2-of-2.json").read_text())["settings"]["shard"] == "2/2"
    assert not (out / "summary.json").exists()
    model = reading_model(delay=1)
    together = evaluate(model, Davis(root), out=out, resume=True)
    assert not model.sessions and together.scores == whole.scores
    for text in ("0/2", "3/2", "1", "a/b", "1/0"):
        with pytest.raises(InputError, match="is not a share; write 2/8"):
            Shard.of(text)


def test_submission_of_a_set_without_public_truth(reading_model: Make, tmp_path: Path) -> None:
    """All frames are tracked, those listed handed in; no score is made up."""
    youtube(tmp_path, full=False)
    data = vos_sets.youtube_vos(tmp_path, all_frames=False)
    path, out = tmp_path / "hand-in.zip", tmp_path / "out"
    sent = SubmissionFile(path, "Annotations")
    summary = evaluate(reading_model(), data, protocol=YOUTUBE_VOS, out=out, submission=sent)
    assert summary.scores == {} and summary.objects == 0
    assert "no truth beyond the first masks" in summary.notes[0]
    with zipfile.ZipFile(path) as archive:
        names = [f"Annotations/{v}/{n}.png" for v in ("0000", "0001") for n in stems(6, 5)]
        assert archive.namelist() == names
        with archive.open(names[3]) as file, Image.open(file) as image:
            assert (image.mode, image.size) == ("P", (tiny.WIDTH, tiny.HEIGHT))
    first = path.read_bytes()
    path.unlink()
    evaluate_masks(data, out, protocol=YOUTUBE_VOS, submission=sent)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == names
    assert len(first) == path.stat().st_size


def test_frames_between_the_listed_are_tracked(reading_model: Make, tmp_path: Path) -> None:
    youtube(tmp_path, full=False)
    data = vos_sets.youtube_vos(tmp_path, all_frames=True, sequences=["0000"])
    model = reading_model()
    summary = evaluate(model, data, protocol=YOUTUBE_VOS, out=tmp_path / "out")
    assert (summary.frames, len(model.sessions[0].seen)) == (26, 26)
    assert [prompt.frame for prompt in model.sessions[0].prompts] == [0, 10]
    written = sorted(path.stem for path in (tmp_path / "out" / "masks" / "0000").iterdir())
    assert written == stems(6, 5)
    assert summary.settings["all_frames"] and "written where listed" in summary.notes[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "every frame of the benchmark needs one"),
        (lambda path: Image.new("P", (4, 4)).save(path), "has 4 x 4 pixels"),
        (
            lambda path: Image.new("L", (tiny.WIDTH, tiny.HEIGHT)).save(path),
            "is an image of kind L; the server takes PNG with a palette",
        ),
        (
            lambda path: tiny.save(path, np.full((tiny.HEIGHT, tiny.WIDTH), 9)),
            r"has the id 9, which 0001 does not have \(1, 2\)",
        ),
    ],
)
def test_a_faulty_submission_is_refused_and_not_written(
    reading_model: Make, tmp_path: Path, change: Any, message: str
) -> None:
    youtube(tmp_path, full=False)
    data, out = vos_sets.youtube_vos(tmp_path), tmp_path / "out"
    evaluate(reading_model(), data, protocol=YOUTUBE_VOS, out=out)
    change(out / "masks" / "0001" / "00025.png")
    path = tmp_path / "zips" / "hand-in.zip"
    path.parent.mkdir()
    with pytest.raises(InputError, match=message):
        evaluate_masks(data, out, protocol=YOUTUBE_VOS, submission=SubmissionFile(path))
    assert not list(path.parent.iterdir())
    with pytest.raises(InputError, match=r"\.zip"):
        SubmissionFile(path.with_suffix(".tar"))
    with pytest.raises(InputError, match="no such folder"):
        SubmissionFile(path.parent / "gone" / path.name)
    os.mkfifo(path)  # reading it would wait for ever
    with pytest.raises(InputError, match="hand-in.zip is not a file"):
        evaluate_masks(data, path, protocol=YOUTUBE_VOS)


def test_masks_one_folder_too_deep_are_found_or_pointed_at(
    davis: Make, clip: Make, reading_model: Make, tmp_path: Path
) -> None:
    """A server refuses such a zip; here the folder is named."""
    root, out = davis(cow=clip(5)), tmp_path / "out"
    evaluate(reading_model(), Davis(root), out=out)
    (tmp_path / "deep").mkdir()
    (out / "masks").rename(tmp_path / "deep" / "results")
    with pytest.raises(InputError, match=r"deep/results\?"):
        evaluate_masks(Davis(root), tmp_path / "deep")
    assert evaluate_masks(Davis(root), tmp_path / "deep" / "results").mean == 100
