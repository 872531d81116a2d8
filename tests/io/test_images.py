"""Label maps as PNG: DAVIS's palette, 16 bits, plain masks, and images that are not masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Never

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter

from tempomask.errors import InputError
from tempomask.io.images import (
    davis_palette,
    is_white_mask,
    read_mask,
    write_label_png,
    write_mask_png,
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(seed=st.integers(0, 2**32), highest=st.sampled_from([0, 1, 2, 254, 255, 256, 65535]))
def test_what_is_written_is_read(tmp_path: Path, seed: Any, highest: Any) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(0, highest + 1, (7, 9)).astype(np.int32)
    labels[3, 4] = highest
    path = tmp_path / "00000.png"
    write_label_png(path, labels)
    read = read_mask(path)
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, labels)
    with Image.open(path) as image:
        assert image.mode == ("P" if highest < 256 else "I;16")
    assert [p.name for p in tmp_path.iterdir()] == ["00000.png"]


def test_the_palette_is_that_of_davis(tmp_path: Path) -> None:
    write_label_png(tmp_path / "a.png", np.array([[0, 1, 2, 3, 255]]))
    with Image.open(tmp_path / "a.png") as image:
        colors = np.array(image.convert("RGB"))[0].tolist()
    assert colors[:4] == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert colors[4] == [224, 224, 192]
    assert len(np.unique(davis_palette(), axis=0)) == 256


def label_image(values: Any, mode: str | None = None) -> Image.Image:
    return Image.fromarray(np.array(values, dtype=np.uint8)).convert(mode)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (label_image([[0, 255]], "L"), [[0, 1]]),
        (label_image([[255, 255]], "L"), [[1, 1]]),
        (label_image([[0, 3]], "L"), [[0, 3]]),
        (label_image([[0, 0]], "L"), [[0, 0]]),
        (label_image([[1, 255]], "L"), [[1, 255]]),
        (label_image([[0, 255]], "1"), [[0, 1]]),
        (label_image([[0, 255]], "RGB"), [[0, 1]]),
        (label_image([[0, 255]], "RGBA"), [[0, 1]]),
        (label_image([[255, 255]], "LA"), [[1, 1]]),
        (Image.fromarray(np.array([[0, 300]], np.uint16)), [[0, 300]]),
        (Image.fromarray(np.array([[0, 70000]], np.int32)).convert("I"), None),
    ],
)
def test_pixel_types(tmp_path: Path, image: Any, expected: Any) -> None:
    path = tmp_path / ("a.png" if expected else "a.tif")
    image.save(path)
    assert read_mask(path).tolist() == (expected or [[0, 70000]])


def test_a_mask_drawn_in_white(tmp_path: Path) -> None:
    mask = np.eye(5, dtype=bool)
    write_mask_png(tmp_path / "a.png", mask)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), mask)


def disc(size: int = 64, radius: float = 20) -> Image.Image:
    y, x = np.mgrid[:size, :size] - size / 2 + 0.5
    return Image.fromarray(np.where(x**2 + y**2 < radius**2, np.uint8(255), np.uint8(0)))


def palette_of(image: Image.Image, *colours: tuple[int, int, int]) -> Image.Image:
    """The image with indices for black and white in the order of these colours."""
    indices = (np.asarray(image) == 0) == (colours[0] == (255, 255, 255))
    made = Image.fromarray(indices.astype(np.uint8))
    made.putpalette([value for colour in colours for value in colour])
    return made


BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    "image",
    [
        palette_of(disc(), WHITE, BLACK),
        palette_of(disc(), BLACK, WHITE),
        disc().convert("RGB").quantize(2),
        disc().convert("RGB").quantize(2, dither=Image.Dither.NONE).convert("P"),
        disc().convert("1"),
        disc().convert("RGBA"),
        Image.merge("LA", [Image.new("L", (64, 64), 255), disc()]),
        Image.merge("RGBA", [Image.new("L", (64, 64), 255)] * 3 + [disc()]),
        Image.fromarray((np.asarray(disc()) // 255).astype(np.uint16) * 65535),
        Image.fromarray(np.asarray(disc()).astype(np.uint16)),
    ],
)
def test_white_on_black_is_one_object(tmp_path: Path, image: Any) -> None:
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.asarray(disc()) > 0)
    assert is_white_mask(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize(
    "soften",
    [
        lambda image: image.resize((32, 32), Image.Resampling.BOX),
        lambda image: image.resize((40, 40), Image.Resampling.BICUBIC),
        lambda image: image.resize((200, 200), Image.Resampling.BILINEAR),
        lambda image: image.filter(ImageFilter.GaussianBlur(1)),
        lambda image: image.rotate(33, Image.Resampling.BILINEAR),
    ],
)
def test_soft_edges_of_white_are_cut_in_the_middle(tmp_path: Path, soften: Any, mode: str) -> None:
    image = soften(disc())
    image.convert(mode).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), np.asarray(image) > 127)


def test_soft_edges_in_a_palette(tmp_path: Path) -> None:
    image = disc().resize((32, 32), Image.Resampling.BOX)
    image.convert("RGB").quantize(256).save(tmp_path / "a.png")
    assert read_mask(tmp_path / "a.png").max() == 1


def test_ids_beside_void_stay_ids(tmp_path: Path) -> None:
    labels = np.zeros((40, 40), np.uint8)
    labels[5:20, 5:20], labels[25:35, 25:35], labels[5, 30] = 200, 2, 3
    labels[20:22, 5:20] = 255
    for made in (Image.fromarray(labels), Image.fromarray(labels).convert("P")):
        made.save(tmp_path / "a.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "a.png"), labels)
        assert not is_white_mask(tmp_path / "a.png")


def test_palettes_whose_background_is_another_colour(tmp_path: Path) -> None:
    image = Image.fromarray(np.eye(5, dtype=np.uint8))
    image.putpalette([200, 30, 30, 0, 0, 0])
    image.save(tmp_path / "a.png")
    with pytest.raises(InputError, match="index 1 .*200,30,30"):
        read_mask(tmp_path / "a.png")


def test_black_on_nothing_is_no_empty_mask(tmp_path: Path) -> None:
    Image.merge("LA", [Image.new("L", (64, 64), 0), disc()]).save(tmp_path / "a.png")
    with pytest.raises(InputError, match="kind LA"):
        read_mask(tmp_path / "a.png")


def test_masks_of_floats(tmp_path: Path) -> None:
    for values, expected in (([0.0, 1.0], [0, 1]), ([0.0, 7.0], [0, 7]), ([0.2, 1.0], None)):
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / "a.tif")
        if expected:
            assert read_mask(tmp_path / "a.tif").tolist() == [expected]
        else:
            with pytest.raises(InputError, match="kind F"):
                read_mask(tmp_path / "a.tif")
    nan, inf = float("nan"), float("inf")
    for value, problem in ((nan, "kind F"), (inf, "id 2147"), (-inf, "id -1"), (1e30, "id 2147")):
        Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "a.tif")
        with pytest.raises(InputError, match=problem):
            read_mask(tmp_path / "a.tif")
    Image.fromarray(np.array([[-1, 2]], np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(InputError, match="id -1"):
        read_mask(tmp_path / "a.tif")


def test_a_mask_with_soft_edges_is_no_map_of_objects(tmp_path: Path) -> None:
    shades = np.tile(np.arange(256, dtype=np.uint8), (4, 1))
    label_image(shades, "L").save(tmp_path / "soft.png")
    with pytest.raises(InputError, match=r"soft\.png"):
        read_mask(tmp_path / "soft.png")
    # Many ids without white, and a few beside it, are a label map.
    for labels in (np.minimum(shades, 254), np.where(shades > 20, np.uint8(255), shades)):
        label_image(labels, "L").save(tmp_path / "ids.png")
        np.testing.assert_array_equal(read_mask(tmp_path / "ids.png"), labels)


def test_images_that_are_no_masks(tmp_path: Path) -> None:
    paths = {name: tmp_path / name for name in ("rgb.png", "alpha.png", "blur.jpg", "no.png")}
    label_image(np.full((4, 4, 3), 9)).save(paths["rgb.png"])
    label_image(np.full((4, 4, 3), 9), "LA").save(paths["alpha.png"])
    label_image(np.zeros((4, 4)), "L").save(paths["blur.jpg"])
    paths["no.png"].write_text("hello")
    table = {"rgb.png": "palette or grey", "alpha.png": "kind LA", "blur.jpg": "save it as PNG"}
    for name, message in {**table, "no.png": "cannot read", "missing.png": "no such mask"}.items():
        with pytest.raises(InputError, match=message) as caught:
            read_mask(tmp_path / name)
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.full((2, 2), 65536), "object id 65536 does not fit"),
        (np.full((2, 2), -1), "object id -1 does not fit"),
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2, 3), int), r"\(2, 2, 3\)"),
        (np.zeros((0, 2), int), r"\(0, 2\)"),
    ],
)
def test_label_maps_that_cannot_be_written(tmp_path: Path, labels: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        write_label_png(tmp_path / "a.png", labels)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.png"
    write_label_png(path, np.ones((2, 2), int))

    def fail(self, file: Any, **_: Any) -> Never:
        file.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError):
        write_label_png(path, np.zeros((2, 2), int))
    assert read_mask(path).tolist() == [[1, 1], [1, 1]]
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
