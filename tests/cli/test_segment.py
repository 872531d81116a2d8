"""`tempomask segment`: what it writes of an image, and what it refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tempomask.io.images import read_mask
from tempomask.model import Model
from tempomask.rle import decode_rle

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def photo(video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "photo.png"
    path.write_bytes((video / "0.png").read_bytes())
    return path


def test_a_click_and_a_box(run: Run, photo: Path, checkpoint: Path) -> None:
    code, out, err = run(
        "segment", photo, "--checkpoint", checkpoint, "--point", "10,12", "--object", 4, "--box",
        "2,2,30,28", "--save", "mask,objects,cutout,overlay", "--json",
    )  # fmt: skip
    assert code == 0, err
    report = json.loads(out)
    assert [item["id"] for item in report["objects"]] == [1, 4]
    folder = Path("photo-segmented")
    assert {path.name for path in folder.iterdir()} == {
        "mask.png", "objects", "cutout", "overlay.png", "result.json",
    }  # fmt: skip
    items = json.loads((folder / "result.json").read_text())["objects"]
    for item, listed in zip(items, report["objects"], strict=True):
        mask = read_mask(folder / f"objects/{item['id']}.png") > 0
        assert mask.sum() == item["area"] == listed["area"]
        np.testing.assert_array_equal(mask, decode_rle({"size": [32, 48], "counts": item["rle"]}))
        cutout = np.asarray(Image.open(folder / f"cutout/{item['id']}.png"))
        np.testing.assert_array_equal(cutout[..., 3] > 0, mask)
    assert set(np.unique(read_mask(folder / "mask.png"))) <= {0, 1, 4}


def test_a_link_out_of_the_folder_is_refused(run: Run, photo: Path, checkpoint: Path) -> None:
    Path("photo-segmented").mkdir()
    Path("photo-segmented/objects").symlink_to(photo.parent)
    code, _, err = run("segment", photo, "--checkpoint", checkpoint, "--point", "10,12")
    assert code == 2 and "objects is a link that leads out of photo-segmented" in err
    Path("circle.png").symlink_to("circle.png")
    code, _, err = run("segment", "circle.png", "--checkpoint", checkpoint, "--point", "10,12")
    assert code == 2 and "circle.png" in err and err.count("\n") == 1


def test_everything(run: Run, photo: Path) -> None:
    code, out, err = run(
        "segment", photo, "--everything", "--points-per-side", 4, "--pred-iou-thresh", 0.5,
        "--stability-score-thresh", 0.6, "--image-size", 128, "--out", "all", "--json",
    )  # fmt: skip
    assert code == 0, err
    assert json.loads(out)["objects"]
    items = json.loads(Path("all/result.json").read_text())["objects"]
    assert {"id", "box", "area", "rle", "predicted_iou", "stability", "point", "crop"} <= set(
        items[0]
    )
    assert Image.open("all/overlay.png").size == (48, 32)


def test_everything_is_tracked(
    run: Run, video: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[np.ndarray] = []

    def found(_: Model, frame: np.ndarray, **__: object) -> SimpleNamespace:
        asked.append(frame)
        masks = np.zeros((2, 32, 48), bool)
        masks[0, 8:24, 4:20] = masks[1, 2:8, 30:46] = True
        return SimpleNamespace(masks=masks if len(asked) == 1 else masks[:0])

    monkeypatch.setattr(Model, "everything", found)
    out = tmp_path / "run"
    arguments = (
        "track",
        video,
        "--checkpoint",
        checkpoint,
        "--everything",
        "--every",
        3,
        "--out",
        out,
    )
    code, _, err = run(*arguments, "--save", "masks", "--end", 5)
    assert code == 0 and len(asked) == 2, err
    code, _, err = run(*arguments, "--save", "masks", "--end", 7, "--resume")
    assert code == 0 and len(asked) == 3, err
    lines = [json.loads(line) for line in (out / "frames.jsonl").read_text().splitlines()[1:]]
    assert [[item["id"] for item in line["objects"]] for line in lines] == [[1, 2]] * 7
    assert "add --everything" in run("track", video, "--point", "5,5", "--every", 3)[2]
    assert "leave --direction" in run("track", video, "--everything", "--direction", "both")[2]


def test_bad_input(run: Run, photo: Path, checkpoint: Path) -> None:
    def refused(*arguments: object) -> str:
        code, _, err = run("segment", photo, "--checkpoint", checkpoint, *arguments)
        assert code == 2 and err.count("\n") == 1 and not list(Path().glob("*-segmented/mask.png"))
        return err

    assert "--everything" in refused()
    assert "leave --point out" in refused("--everything", "--point", "5,5")
    assert "leave --points-per-side out" in refused("--point", "5,5", "--points-per-side", 3)
    assert "did you mean mask" in refused("--point", "5,5", "--save", "masks")
    assert "outside the 48 x 32 image" in refused("--point", "90,5")
    Path("photo-segmented").mkdir()
    Path("photo-segmented/overlay.png").write_bytes(b"mine")
    assert "is there already" in refused("--point", "5,5")
    assert Path("photo-segmented/overlay.png").read_bytes() == b"mine"
