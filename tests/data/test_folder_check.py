"""`data check` of folders: a clean set has no problem, and each flaw is one line that names it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempomask.cli import main as cli
from tempomask.data.folder_check import check_folder
from tempomask.errors import InputError


@pytest.fixture
def davis(tmp_path: Path) -> Path:
    labels = np.zeros((12, 16), np.uint8)
    labels[2:6, 2:6] = 1
    for name in ("cow", "dog"):
        for part, image in (("JPEGImages", labels * 90), ("Annotations", labels)):
            folder = tmp_path / part / "480p" / name
            folder.mkdir(parents=True)
            for index in range(3):
                Image.fromarray(image).save(folder / f"{index:05d}.png")
    return tmp_path


@pytest.fixture
def otb(tmp_path: Path) -> Path:
    for name in ("ball", "cup"):
        folder = tmp_path / name / "img"
        folder.mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (16, 12)).save(folder / f"{index:04d}.png")
        (tmp_path / name / "groundtruth_rect.txt").write_text("1,2,5,5\n" * 4)
    return tmp_path


def test_a_clean_set_has_no_problem(davis: Path) -> None:
    assert list(check_folder(davis, decode=True)) == []


def test_every_flaw_of_masks_is_named(davis: Path) -> None:
    dog = davis / "Annotations" / "480p" / "dog"
    two = np.zeros((12, 16), np.uint8)
    two[:3], two[5:] = 1, 2
    Image.fromarray(two).save(dog / "00001.png")
    Image.new("L", (4, 4)).save(dog / "00002.png")
    (davis / "Annotations" / "480p" / "cow" / "00001.png").unlink()
    frame = davis / "JPEGImages" / "480p" / "dog" / "00002.png"
    Image.new("RGB", (20, 12)).save(frame)
    lines = list(check_folder(davis))
    assert len(lines) == 4
    for line, word in zip(
        lines,
        ("cow: frame 00001.png has no annotation", "20 x 12", "object 2 is first", "4 x 4"),
        strict=True,
    ):
        assert word in line


def test_every_flaw_of_boxes_is_named(otb: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert list(check_folder(otb)) == []
    truth = otb / "cup" / "groundtruth_rect.txt"
    truth.write_text("1,2,5,5\n1,2,-5,5\n90,2,5,5\n1,2,5,5\n")
    lines = list(check_folder(otb, "otb"))
    assert len(lines) == 2
    assert (
        "cup: 1 boxes are none" in lines[0]
        and "outside the image, the first on frame 2" in lines[1]
    )
    (otb / "ball" / "groundtruth_rect.txt").write_text("90,2,5,5\n" + "1,2,5,5\n" * 3)
    assert cli.main(["data", "check", str(otb)]) == 1
    told = capfd.readouterr()
    assert "ball: the first box 90,2,5,5 lies outside" in told.out and "3 problems" in told.err


@pytest.mark.parametrize(
    ("images", "truth", "text"),
    [
        ("TEST/frames/a", "TEST/anno/a.txt", "{0},2,5,5\n"),
        ("test/a", "test/a/groundtruth.txt", "{0},2,5,5\n"),
        ("a/30/a", "a/30/a.txt", "0 {0} 2 49 9 0 0 0 0\n" * 3),
        ("data_seq/UAV123/a", "anno/UAV123/a.txt", "{0},2,5,5\n" * 3),
    ],
)
def test_sets_of_boxes_are_known_by_their_files(
    tmp_path: Path, images: str, truth: str, text: str
) -> None:
    (tmp_path / images).mkdir(parents=True)
    for index in range(3):
        Image.new("RGB", (16, 12)).save(tmp_path / images / f"{index}.jpg")
    (tmp_path / truth).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / truth).write_text(text.format(1))
    assert list(check_folder(tmp_path)) == []
    (tmp_path / truth).write_text(text.format(40))
    problem = next(check_folder(tmp_path))
    assert "the first box" in problem and "outside" in problem


def test_what_is_no_data_set(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="davis, youtube-vos, mose"):
        list(check_folder(tmp_path))
    assert cli.main(["data", "check", str(tmp_path), "--images", "x"]) == 2
    assert "--images is for a file" in capfd.readouterr().err
