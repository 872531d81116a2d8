"""Folders of images: natural order, sizes, orientation, and files that do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tempomask.errors import InputError
from tempomask.io.images import read_image
from tempomask.io.sources import natural_key
from tempomask.io.video import open_video


def save(path: Path, value: Any = 0, size: Any = (6, 4), mode: str = "RGB", **options: Any):
    Image.fromarray(np.full((size[1], size[0], 3), value, np.uint8)).convert(mode).save(
        path, **options
    )
    return path


def test_any_names_in_natural_order(tmp_path: Path) -> None:
    names = ["frame 1.png", "frame 2.JPG", "frame 10.png", "frame 011.bmp", "shot-3.webp"]
    for value, name in enumerate(names):
        save(tmp_path / name, value * 20)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    (tmp_path / "masks").mkdir()
    with open_video(tmp_path) as video:
        assert (video.num_frames, video.size, video.fps, video.seekable) == (5, (4, 6), None, True)
        got = [(index, round(frame.mean() / 20)) for index, frame in video.frames()]
        assert got == [(i, i) for i in range(5)]
        assert [i for i, _ in video.frames(1, 3)] == [1, 2]
        assert [i for i, _ in video.reversed_frames(3)] == [3, 2, 1, 0]


@given(
    st.lists(st.integers(0, 10**6), unique=True, max_size=9), st.sampled_from(["", "A b", "7é."])
)
def test_numbers_sort_by_value(values: Any, prefix: Any) -> None:
    names = [f"{prefix}x{value}.png" for value in values]
    assert sorted(names, key=natural_key) == [f"{prefix}x{value}.png" for value in sorted(values)]


@settings(max_examples=30)
@given(st.lists(st.text(max_size=6), max_size=8))
def test_any_names_can_be_sorted(names: Any) -> None:
    once = sorted(names, key=natural_key)
    once.reverse()
    assert sorted(once, key=natural_key) == once[::-1]


def test_orientation_and_pixel_types(tmp_path: Path) -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, :2] = 250
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it upright
    Image.fromarray(image).save(tmp_path / "a.png", exif=exif)
    Image.fromarray(np.full((4, 6), 51200, np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(tmp_path / "grey.png")
    save(tmp_path / "clear.png", 9, mode="RGBA")
    save(tmp_path / "palette.png", 51, mode="P")
    turned = read_image(tmp_path / "a.png")
    np.testing.assert_array_equal(turned, np.rot90(image, -1))
    with open_video(tmp_path / "a.png") as video:
        assert (video.size, video.num_frames) == ((6, 4), 1)
    for name, value in (("deep", 200), ("grey", 77), ("clear", 9), ("palette", 51)):
        frame = read_image(tmp_path / f"{name}.png")
        assert frame.dtype == np.uint8
        np.testing.assert_array_equal(frame, np.full((4, 6, 3), value))


def test_different_sizes_name_both_images(tmp_path: Path) -> None:
    save(tmp_path / "1.png")
    save(tmp_path / "2.png", size=(4, 6))
    with pytest.raises(InputError, match=r"1\.png"):
        open_video(tmp_path)


def test_frames_and_masks_in_one_folder(tmp_path: Path) -> None:
    save(tmp_path / "1.jpg")
    save(tmp_path / "1.png")
    with pytest.raises(InputError, match=r"1\.jpg"):
        open_video(tmp_path)


def test_folders_without_images(tmp_path: Path) -> None:
    table = {"nothing": "it is empty", "text": "other files", "videos": "give one of them: a.mp4"}
    for name, message in table.items():
        (tmp_path / name).mkdir()
        if name == "text":
            (tmp_path / name / "a.txt").touch()
        if name == "videos":
            (tmp_path / name / "a.mp4").touch()
        with pytest.raises(InputError, match=f"no images .*{message}"):
            open_video(tmp_path / name)
    (tmp_path / "deep" / "480p").mkdir(parents=True)
    save(tmp_path / "deep" / "480p" / "0.png")
    with pytest.raises(InputError, match="its folder 480p holds some"):
        open_video(tmp_path / "deep")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "it is empty"), (b"hello", "unknown format or damaged")]
)
def test_unreadable_images_are_named(tmp_path: Path, content: Any, message: str) -> None:
    save(tmp_path / "0.png")
    (tmp_path / "1.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"1\.png: {message}"):
        open_video(tmp_path)


def test_a_cut_image_is_named_when_it_is_reached(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for index in range(3):
        Image.fromarray(noise).save(tmp_path / f"{index}.jpg")
    data = (tmp_path / "1.jpg").read_bytes()
    (tmp_path / "1.jpg").write_bytes(data[: len(data) * 2 // 3])
    reading = open_video(tmp_path).frames()
    assert next(reading)[0] == 0
    with pytest.raises(InputError, match=r"1\.jpg"):
        next(reading)
