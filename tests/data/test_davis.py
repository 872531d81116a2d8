"""Reading DAVIS roots of every layout, and saying what is wrong with one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempomask.data.davis import Davis
from tempomask.errors import InputError


def write_sequence(
    root: Path, name: str, masks: list[np.ndarray], resolution: str = "480p"
) -> None:
    for part in ("JPEGImages", "Annotations"):
        (root / part / resolution / name).mkdir(parents=True)
    for index, mask in enumerate(masks):
        frame = np.full((*mask.shape, 3), 10 * index, np.uint8)
        Image.fromarray(frame).save(root / "JPEGImages" / resolution / name / f"{index:05d}.jpg")
        Image.fromarray(mask).save(root / "Annotations" / resolution / name / f"{index:05d}.png")


def mask_of(*values: int) -> np.ndarray:
    mask = np.zeros((8, 12), np.uint8)
    for i, value in enumerate(values):
        mask[2 * i : 2 * i + 2, :4] = value
    return mask


@pytest.mark.parametrize("resolution", ["480p", ""])
def test_reads_both_layouts(tmp_path: Path, resolution: str) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1, 2)] * 3, resolution)
    (sequence,) = Davis(tmp_path)
    assert (sequence.name, len(sequence)) == ("cow", 3)
    assert set(np.unique(sequence.label_map(1))) == {0, 1, 2}
    assert next(iter(sequence.frames())).shape == (8, 12, 3)


@pytest.mark.parametrize(
    ("values", "single", "expected"),
    [((255,), False, {0, 1}), ((1, 2), True, {0, 1}), ((1, 255), False, {0, 1, 255})],
)
def test_label_values(
    tmp_path: Path, values: tuple[int, ...], single: bool, expected: set[int]
) -> None:
    write_sequence(tmp_path, "cow", [mask_of(*values)] * 3)
    (sequence,) = Davis(tmp_path, single_object=single)
    assert set(np.unique(sequence.label_map(0)).tolist()) == expected


def test_splits_of_both_years(tmp_path: Path) -> None:
    for name in ("cow", "dog", "goat"):
        write_sequence(tmp_path, name, [mask_of(1)] * 3)
    for year, text in (("2017", "dog\ncow\n"), ("2016", "/JPEGImages/480p/goat/00000.jpg /x\n")):
        (tmp_path / "ImageSets" / year).mkdir(parents=True)
        (tmp_path / "ImageSets" / year / "val.txt").write_text(text)
    assert [s.name for s in Davis(tmp_path, "2017/val")] == ["dog", "cow"]
    assert [s.name for s in Davis(tmp_path, "2016/val")] == ["goat"]
    with pytest.raises(InputError, match="leave the split out"):
        Davis(tmp_path, "2018/val")


def test_unknown_sequence_names_near_ones(tmp_path: Path) -> None:
    write_sequence(tmp_path, "blackswan", [mask_of(1)] * 3)
    with pytest.raises(InputError, match=r"'blackswam'.*near: blackswan"):
        Davis(tmp_path, sequences=["blackswam"])


def test_missing_parts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"JPEGImages is missing"):
        Davis(tmp_path)
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3)
    (tmp_path / "Annotations" / "480p" / "cow" / "00001.png").unlink()
    with pytest.raises(InputError, match=r"cow: frame 00001.jpg has no annotation"):
        Davis(tmp_path)
    (tmp_path / "JPEGImages" / "480p" / "cow" / "00001.jpg").unlink()
    (tmp_path / "JPEGImages" / "480p" / "cow" / "00002.jpg").unlink()
    with pytest.raises(InputError, match=r"annotation 00002.png has no frame"):
        Davis(tmp_path)


def test_colour_annotation_is_refused(tmp_path: Path) -> None:
    write_sequence(tmp_path, "cow", [mask_of(1)] * 3)
    path = tmp_path / "Annotations" / "480p" / "cow" / "00000.png"
    Image.fromarray(np.zeros((8, 12, 3), np.uint8)).save(path)
    (sequence,) = Davis(tmp_path)
    with pytest.raises(InputError, match="RGB"):
        sequence.label_map(0)
