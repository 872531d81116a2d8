"""SA-23's protocol: clicks, which mask counts, and how masks and sets average."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tempomask.data.image_sets import image_sets
from tempomask.errors import InputError
from tempomask.evaluation import images as module
from tempomask.evaluation.images import evaluate_images
from tempomask.model import Model, load
from tempomask.prompts import Prompt
from tempomask.results import FrameArrays, FrameResult
from tempomask.rle import encode_rle

HEIGHT, WIDTH = 40, 60


def labels() -> NDArray[np.uint8]:
    found = np.zeros((HEIGHT, WIDTH), np.uint8)
    found[5:16, 4:15] = 1
    found[20:35, 30:55] = 200
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder set of one image of two objects, and a COCO set of one image of one."""
    for name in ("images", "labels"):
        (tmp_path / "maps" / name).mkdir(parents=True)
    image = Image.fromarray(np.stack([labels()] * 3, axis=2))
    image.save(tmp_path / "maps/images/a.png")
    Image.fromarray(labels()).save(tmp_path / "maps/labels/a.png")
    image.save(tmp_path / "photo.png")
    rle: Any = encode_rle(labels() == 200)
    polygon = [[4, 5, 15, 5, 15, 16, 4, 16]]
    content = {
        "images": [{"id": 7, "file_name": "photo.png"}],
        "annotations": [
            {"image_id": 7, "segmentation": rle},
            {"image_id": 7, "segmentation": polygon, "iscrowd": 0},
            {"image_id": 7, "segmentation": rle, "iscrowd": 1},
        ],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    return tmp_path


class Scripted:
    """A session that answers with the truth, less `missing` columns for each click so far."""

    asked: list[tuple[int, int, bool | None, bool]]

    def __init__(self, missing: dict[int, int]) -> None:
        self.missing, self.asked = missing, []

    def segment(
        self, prompts: list[Prompt], *, previous: FrameResult | None, multimask: bool | None
    ) -> FrameResult:
        masks = []
        for prompt in prompts:
            count = prompt.num_points
            self.asked.append((prompt.object_id, count, multimask, previous is not None))
            mask = labels() == prompt.object_id
            left = int(mask.any(axis=0).argmax())
            mask[:, left : left + max(0, self.missing[prompt.object_id] - count + 1)] = False
            masks.append(np.where(mask, 1, -1).astype(np.float32))
        ones = np.ones(len(masks), np.float32)
        arrays = FrameArrays(np.stack(masks), ones, ones)
        ids = tuple(prompt.object_id for prompt in prompts)
        return FrameResult(0, (HEIGHT, WIDTH), ids, arrays, np.zeros(0, bool))


@pytest.fixture(scope="module")
def model() -> Model:
    return load("nano", image_size=64, device="cpu", dtype="float32")


def test_the_two_layouts(folder: Path) -> None:
    sets = {one.name: one for one in image_sets(folder)}
    assert set(sets) == {"maps", "coco"}
    maps = sets["maps"].images[0].read()
    assert set(maps) == {1, 200}
    drawn = sets["coco"].images[0].read()
    np.testing.assert_array_equal(drawn[1], maps[200])
    np.testing.assert_array_equal(drawn[2], maps[1])
    assert len(drawn) == 2  # without the crowd


def test_clicks_and_averages(
    folder: Path, model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = Scripted({1: 2, 200: 0})
    monkeypatch.setattr(Model, "image_session", lambda *_, **__: script)
    sets = image_sets(folder / "maps")
    found = evaluate_images(model, sets, clicks=(1, 2, 5), out=tmp_path / "scores")
    # Object 1 lacks two of eleven columns, then one, then none; object 200 is right at once.
    assert found.mean == pytest.approx({1: 50 * (9 / 11 + 1), 2: 50 * (10 / 11 + 1), 5: 100})
    first, *rest = (one for one in script.asked if one[0] == 1)
    assert first == (1, 1, True, False) and rest == [(1, 2, None, True), (1, 3, None, True)]
    assert [one for one in script.asked if one[0] == 200] == [(200, 1, True, False)]
    rows = (tmp_path / "scores/results.csv").read_text().splitlines()
    assert rows[0] == "set,image,object,IoU@1,IoU@2,IoU@5" and len(rows) == 3
    assert (
        json.loads((tmp_path / "scores/summary.json").read_text())["sets"]["maps"]["objects"] == 2
    )


def test_sets_count_the_same(folder: Path, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter([[(1, [0.5]), (2, [0.7])], [(1, [1.0])]])
    monkeypatch.setattr(module, "_scores", lambda *_: next(values))
    found = evaluate_images(model, image_sets(folder), clicks=[1])
    assert found.mean == pytest.approx({1: 80})


def test_a_model_on_both(folder: Path, model: Model) -> None:
    found = evaluate_images(model, image_sets(folder), clicks=(1, 3))
    assert found.images == 2 and found.objects == {"maps": 2, "coco": 2}
    # The same objects under other numbers.
    assert found.sets["maps"] == pytest.approx(found.sets["coco"], abs=1e-3)
    assert all(0 < value < 100 for value in found.mean.values())


def test_bad_input_is_one_line(folder: Path, model: Model) -> None:
    with pytest.raises(InputError, match="labelled images"):
        image_sets(folder / "maps" / "images")
    (folder / "maps/labels/a.png").unlink()
    with pytest.raises(InputError, match="label map"):
        image_sets(folder / "maps")
    Image.fromarray(labels()[:9]).save(folder / "maps/labels/a.png")
    with pytest.raises(InputError, match="60 x 9 .*60 x 40"):
        evaluate_images(model, image_sets(folder / "maps"))
    content = json.loads((folder / "coco.json").read_text())
    content["images"][0]["file_name"] = "other.png"
    (folder / "coco.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"'other\.png'"):
        image_sets(folder / "coco.json")
    for name in ("../coco/photo.png", "/etc/passwd", ""):
        content["images"][0]["file_name"] = name
        (folder / "coco.json").write_text(json.dumps(content))
        with pytest.raises(InputError, match=r"images\[0\]\.file_name"):
            image_sets(folder / "coco.json")
    (folder / "coco.json").write_text('{"videos": []}')
    with pytest.raises(InputError, match="the annotations"):
        image_sets(folder / "coco.json")
