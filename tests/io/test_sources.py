"""Folders of images: natural order, sizes, orientation, and files that do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tempomask.errors import InputError, InputWarning
from tempomask.io.images import image_size, read_image, read_mask, read_values
from tempomask.io.sources import list_images, natural_key
from tempomask.io.video import open_video


def save(path: Path, value: Any = 0, size: Any = (6, 4), mode: str = "RGB", **options: Any) -> Path:
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


def test_every_orientation_of_frames_and_masks(tmp_path: Path) -> None:
    shown = np.arange(1, 25, dtype=np.uint8).reshape(4, 6)
    for value in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = value
        stored = Image.fromarray(shown)
        # How the pixels are stored, so that they are shown upright.
        method = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}.get(value)
        stored = stored if method is None else stored.transpose(Image.Transpose(method))
        for suffix in ("png", "tif"):
            path = tmp_path / f"{value}.{suffix}"
            stored.save(path, exif=exif)
            assert image_size(path) == (4, 6)
            np.testing.assert_array_equal(read_image(path)[..., 0], shown)
            np.testing.assert_array_equal(read_mask(path), shown)
            np.testing.assert_array_equal(read_values(path), shown)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_orientation_that_there_is_none_of(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(np.full((4, 6), 7, np.uint8)).save(tmp_path / "a.png", exif=exif)
    with open_video(tmp_path / "a.png", prefetch=0) as video:
        assert video.size == (4, 6) and next(video.frames())[1].shape == (4, 6, 3)


def test_orientation_that_stands_after_the_pixels(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    early, late = tmp_path / "early.png", tmp_path / "late.png"
    Image.fromarray(np.eye(4, 6, dtype=np.uint8)).save(early, exif=exif)
    data = early.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    place = data.index(b"IEND") - 4
    late.write_bytes(data[:start] + data[end:place] + data[start:end] + data[place:])
    assert image_size(late) == image_size(early) == (6, 4)
    np.testing.assert_array_equal(read_image(late), read_image(early))
    np.testing.assert_array_equal(read_mask(late), read_mask(early))


@pytest.mark.parametrize(
    ("highest", "bits"), [(200, 8), (1000, 10), (4000, 12), (9000, 14), (60000, 16)]
)
def test_one_scale_for_a_deep_sequence(tmp_path: Path, highest: int, bits: int) -> None:
    """The dark first frame is not brighter than in the others."""
    values = [highest // 8, highest, highest // 2]
    for index, value in enumerate(values):
        Image.fromarray(np.full((4, 6), value, np.uint16)).save(tmp_path / f"{index}.png")
    with open_video(tmp_path) as video:
        found = [int(frame.max()) for _, frame in video.frames()]
    assert found == [value >> (bits - 8) for value in values]
    (tmp_path / "stack").mkdir()
    pages = [Image.fromarray(np.full((4, 6), value, np.uint16)) for value in values]
    pages[0].save(tmp_path / "stack" / "s.tif", save_all=True, append_images=pages[1:])
    with open_video(tmp_path / "stack" / "s.tif") as video:
        assert [int(frame.max()) for _, frame in video.frames()] == found


def test_values_out_of_range_are_refused(tmp_path: Path) -> None:
    for values in ([0.0, 255.0], [-0.5, 0.5], [0.0, np.nan]):
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(InputError, match=r"a\.tif .* from 0 to 1"):
            read_image(tmp_path / "a.tif")
    Image.fromarray(np.array([[0.0, 0.5, 1.0]], np.float32)).save(tmp_path / "a.tif")
    assert read_image(tmp_path / "a.tif")[0, :, 0].tolist() == [0, 128, 255]
    for values in ([0, 70000], [-3, 5]):
        Image.fromarray(np.array([values], np.int32)).save(tmp_path / "b.tif")
        with pytest.raises(InputError, match="from 0 to 65535"):
            read_image(tmp_path / "b.tif")


def test_what_is_transparent_is_black(tmp_path: Path) -> None:
    pixels = np.full((2, 3, 4), 200, np.uint8)
    pixels[:, 0, 3], pixels[:, 1, 3], pixels[:, 2, 3] = 0, 255, 128
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 1].tolist() == [0, 200, 100]


@pytest.mark.parametrize("name", ["a.tif", "a.webp", "a.png", "a.avif"])
def test_images_of_several_pages_are_videos(tmp_path: Path, name: str) -> None:
    pages = [Image.fromarray(np.full((16, 24, 3), 50 * k, np.uint8)) for k in range(5)]
    options = {} if name == "a.tif" else {"duration": 40}
    options |= {"lossless": True} if name == "a.webp" else {}
    pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:], **options)
    with open_video(tmp_path / name) as video:
        assert (video.num_frames, video.size) == (5, (16, 24))
        assert video.fps == (None if name == "a.tif" else pytest.approx(25))
        for start, order in ((0, video.frames()), (None, video.reversed_frames())):
            found = [(index, round(float(frame.mean()) / 50)) for index, frame in order]
            assert found == [(k, k) for k in (range(5) if start == 0 else range(4, -1, -1))]
        assert [index for index, _ in video.frames(2, 4)] == [2, 3]
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match="5 images"):
            read(tmp_path / name)
    (tmp_path / "b.png").write_bytes((tmp_path / name).read_bytes())
    with pytest.raises(InputError, match="5 images"):
        list(open_video([tmp_path / name, tmp_path / "b.png"]).frames())


def test_pages_of_different_sizes_are_named(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (6, 4)), Image.new("RGB", (6, 4)), Image.new("RGB", (3, 2))]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(InputError, match="page 2 .*3 x 2 .*6 x 4"):
        list(open_video(tmp_path / "a.tif").frames())


def test_nothing_is_left_out_without_a_word(tmp_path: Path) -> None:
    for index in range(3):
        save(tmp_path / f"{index}.png")
    (tmp_path / "1.heic").write_bytes(b"x")
    with pytest.warns(InputWarning, match=r"1 files .*1\.heic"):
        assert len(list_images(tmp_path)) == 3
    (tmp_path / "3.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match=r"3\.png is a link"):
        open_video(tmp_path)


def test_names_come_once_in_a_list(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        save(tmp_path / folder / "x.png")
    for pair in (("a/x.png", "b/x.png"), ("a/x.png", "a/x.png")):
        with pytest.raises(InputError, match="name x"):
            open_video([tmp_path / name for name in pair])


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
    with pytest.raises(InputError, match="480p"):
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
