"""`tempomask eval` on a tiny copy of every layout: tracked, scored again, handed in."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Run
from tests.evaluation import vos_layouts as tiny
from tests.evaluation.test_vos_protocols import lvos, stems, write_clip, youtube


@pytest.fixture
def roots(tmp_path: Path) -> dict[str, Path]:
    """A root for each command."""
    made = {name: tmp_path / name for name in ("youtube-vos", "mose", "lvos", "sav", "vost")}
    youtube(made["youtube-vos"])
    lvos(made["lvos"])
    names, clip = stems(5), tiny.blobs(1, (1, 2), 5)
    for base in (made["mose"] / "valid", made["vost"]):
        tiny.save_frames(base / "JPEGImages" / "a", names)
        write_clip(base / "Annotations" / "a", names, clip)
    videos = {"a": {"length": 5, "objects": ["1", "2"]}}
    tiny.save_json(made["mose"] / "valid" / "meta.json", {"videos": videos})
    tiny.save_frames(made["sav"] / "sav_val" / "JPEGImages_24fps" / "a", stems(9))
    for k in (1, 2):
        folder = made["sav"] / "sav_val" / "Annotations_6fps" / "a" / f"{k:03d}"
        masks = [(labels == k).astype(np.uint8) * 255 for labels in clip[:3]]
        write_clip(folder, stems(3, 4), masks)
    return made


@pytest.mark.parametrize(
    ("command", "options", "names"),
    [
        ("youtube-vos", (), {"J&F", "G", "J_seen", "F_unseen"}),
        ("youtube-vos", ("--all-frames",), {"J&F", "G"}),
        ("mose", (), {"J&F", "J", "F"}),
        ("mose", ("--mose-version", 2), {"J&F_new", "F_new", "J&F_new_reappear", "J&F"}),
        ("lvos", (), {"J&F", "J&F_groups", "V_seen"}),
        ("sav", (), {"J&F", "J", "F"}),
        ("vost", (), {"J", "J_last"}),
    ],
)
def test_every_layout(
    run: Run, roots: dict[str, Path], checkpoint: Path, tmp_path: Path, command: str,
    options: tuple[object, ...], names: set[str],
) -> None:  # fmt: skip
    root, out = roots[command], tmp_path / "out"
    model = ("--checkpoint", checkpoint, "--dtype", "float32")
    where = ("--out", out, "--submission", tmp_path / "s.zip")
    code, text, err = run("eval", command, root, *options, *model, *where)
    assert code == 0, err
    summary = json.loads((out / "summary.json").read_text())
    assert names <= summary.keys() and summary["protocol"] in text
    rows = (out / "results.csv").read_text().splitlines()
    assert len(rows) == 1 + summary["objects"] and rows[0].startswith("sequence,object,")
    with zipfile.ZipFile(tmp_path / "s.zip") as archive:
        tops = {Path(name).parts[0] for name in archive.namelist()}
    inside = {"Annotations"} if command in ("youtube-vos", "lvos") else set(summary["sequences"])
    assert tops == inside
    code, text, err = run("eval", command, root, *options, "--masks", out, "--json")
    assert code == 0, err
    again = json.loads(text)
    assert {name: again[name] for name in names} == {name: summary[name] for name in names}
    code, text, err = run(
        "eval", command, root, *options, *model, "--out", out, "--resume", "--json"
    )
    assert code == 0 and json.loads(text)["FPS"] == summary["FPS"]


def test_bad_input_is_one_line_before_work(
    run: Run, roots: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    model = ("--checkpoint", checkpoint)
    for given, words in (
        (("mose", roots["lvos"], "--mose-version", 2), "must be the one that MOSEv2 comes with"),
        (("lvos", roots["mose"]), "LVOS comes with"),
        (("sav", roots["mose"]), "JPEGImages_24fps is missing"),
        (("vost", tmp_path / "none"), "is missing"),
        (("youtube-vos", tmp_path / "none"), "no such folder"),
        (("mose", roots["mose"], *model, "--shard", "3/2"), "is not a share"),
        (("mose", roots["mose"], *model, "--resume"), "name that folder"),
        (("mose", roots["mose"], *model, "--submission", "s.tar"), "must end in .zip"),
        (("mose", roots["mose"], *model, "--shard", "1/2", "--submission", "s.zip"), "needs all"),
        (("mose", roots["mose"], "--masks", roots["lvos"], "--shard", "1/2"), "leave --shard out"),
        (("mose", roots["mose"], "--masks", roots["lvos"]), "has no masks for 1 of 1"),
    ):
        code, out, err = run("eval", *given)
        assert (code, out) == (2, "") and words in err, (given, err)
        assert len(err.strip().splitlines()) == 1


def test_zips_are_scored_and_their_root_is_checked(
    run: Run, roots: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    root, model = roots["mose"], ("--checkpoint", checkpoint, "--dtype", "float32")
    zipped, wrong = tmp_path / "s.zip", tmp_path / "wrong.zip"
    code, first, err = run("eval", "mose", root, *model, "--submission", zipped, "--json")
    assert code == 0, err
    code, again, err = run("eval", "mose", root, "--masks", zipped, "--json")
    assert code == 0 and json.loads(again)["sequences"] == json.loads(first)["sequences"]
    with zipfile.ZipFile(zipped) as archive, zipfile.ZipFile(wrong, "w") as other:
        for name in archive.namelist():
            other.writestr(f"results/{name}", archive.read(name))
        other.writestr("../out.txt", "x")
    (tmp_path / "none.zip").write_bytes(b"text")
    for given, words in (
        (("mose", root, "--masks", wrong), "wrong.zip has .., results at its root, where the ser"),
        (("lvos", roots["lvos"], "--masks", zipped), "Annotations/vid0/ and the others; zip the f"),
        (("mose", root, "--masks", tmp_path / "none.zip"), "cannot read the zip"),
        (("mose", root, *model, "--sequences", "a", "--submission", zipped), "leave --sequences"),
    ):
        code, out, err = run("eval", *given)
        assert (code, out) == (2, "") and words in err, (given, err)
        assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "out.txt").exists()


def test_what_is_left_out_is_told_before_work(
    run: Run, roots: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    """A later mask of another size is found in its header, before a frame is tracked."""
    base = roots["vost"]
    shutil.copytree(base / "JPEGImages" / "a", base / "JPEGImages" / "b")
    shutil.copytree(base / "Annotations" / "a", base / "Annotations" / "b")
    Image.new("P", (9, 9)).save(base / "Annotations" / "a" / "00003.png")
    model = ("--checkpoint", checkpoint, "--dtype", "float32")
    for command in (("vost", base), ("pvs", f"vost:{base}", "--rounds", 1)):
        code, text, err = run("eval", *command, *model, "--json")
        assert code == 1 and json.loads(text)
        first = err.strip().splitlines()[0]
        assert "warning" in first and "00003.png has 9 x 9 pixels" in first
        assert "a will be left out" in first
    code, out, err = run("eval", "vost", base, *model, "--submission", tmp_path / "s.zip")
    assert (code, out) == (2, "") and "is not written, as a server takes whole sets only" in err


def test_promptable_segmentation_over_several_sets(
    run: Run, roots: dict[str, Path], checkpoint: Path, tmp_path: Path
) -> None:
    data = (f"sav:{roots['sav']}", f"mose:{roots['mose']}")
    model, out = ("--checkpoint", checkpoint, "--dtype", "float32"), tmp_path / "out"
    options = ("--mode", "online", "--clicks", 2, "--rounds", 2, "--out", out)
    code, text, err = run("eval", "pvs", *data, *model, *options)
    assert code == 0, err
    assert "mean over 2 data sets" in text
    summary = json.loads((out / "summary.json").read_text())
    assert list(summary["data_sets"]) == ["sav-sav", "mose-mose"]
    assert summary["mean"] == pytest.approx(np.mean(list(summary["data_sets"].values())))
    assert [len(curve) for curve in summary["rounds"].values()] == [2, 2, 2]
    one = json.loads((out / "sav-sav" / "summary.json").read_text())
    assert (one["J&F"], one["settings"]["clicks"]) == (summary["data_sets"]["sav-sav"], 2)
    assert (out / "rounds.png").stat().st_size > 1000

    data = (data[0], f"mose2:{roots['mose'] / 'valid'}")
    code, text, err = run("eval", "interactive", *data, *model, "--prompt", "1click", "--json")
    assert code == 0, err
    found = json.loads(text)
    assert list(found["data_sets"]) == ["sav-sav", "mose2-valid"] and found["prompt"] == "1click"
    for given, words in (
        ((), "name some as LAYOUT:ROOT"),
        (("lvso:x",), "did you mean lvos?"),
        (("lvos",), "is not LAYOUT:ROOT"),
    ):
        code, _, err = run("eval", "pvs", *given)
        assert code == 2 and words in err and len(err.strip().splitlines()) == 1
