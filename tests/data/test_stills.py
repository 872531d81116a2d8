"""The image library: lists what is there, names what is not, and cuts objects out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.data.stills import Cutout, ImageLibrary, largest_part
from tempomask.errors import InputError


def test_every_labelled_image_is_listed(training_folder: Path) -> None:
    library = ImageLibrary(training_folder)
    assert len(library.objects) == 6 and len(library.nuclei) == 2 and len(library.regions) == 2
    assert {still.category for still in library.objects} == {"person", "horse"}
    assert library.names == ["cow", "dog"]
    assert [len(images) for images in library.sequences.values()] == [12, 12]


def test_images_are_read_once(training_folder: Path) -> None:
    library = ImageLibrary(training_folder)
    path = library.objects[0].image
    first = library.image(path)
    assert first.shape == (140, 160, 3) and first.dtype == np.uint8
    assert library.image(path) is first


@pytest.mark.parametrize("draw", ["object", "nucleus", "region"])
def test_objects_are_cut_out_where_the_image_is_bright(training_folder: Path, draw: str) -> None:
    library = ImageLibrary(training_folder)
    for seed in range(12):
        cutout = getattr(library, draw)(np.random.default_rng(seed))
        assert set(np.unique(cutout.mask)) == {0, 1}
        inside = cutout.image[cutout.mask > 0]
        if cutout.category != "region" or inside.mean() > 100:
            # JPEG leaves a little noise in DAVIS frames.
            assert inside.min() > 150
            assert cutout.image[cutout.mask == 0].mean() < 100


def test_labels_without_objects_give_none(empty_labels_folder: Path) -> None:
    library = ImageLibrary(empty_labels_folder)
    assert library.object(np.random.default_rng(0)) is None
    assert library.nucleus(np.random.default_rng(0)) is None
    assert library.region(np.random.default_rng(0)) is None, "one region fills the image"


def test_held_out_sequences_stay_out(training_folder: Path) -> None:
    library = ImageLibrary(training_folder, held_out=("cow",))
    assert library.names == ["dog"]
    frames = {library.davis_frame(np.random.default_rng(s)).parent.name for s in range(30)}
    assert frames == {"dog"}
    with pytest.raises(InputError, match="'cat'"):
        ImageLibrary(training_folder, held_out=("cat",))


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("stills-256/horse-weizmann/labels", "horse-weizmann"),
        ("stills-256/nuclei-dsb2018", "nuclei"),
        ("davis16-train-256", "JPEGImages"),
    ],
)
def test_missing_data_is_named(
    training_folder: Path, tmp_path: Path, missing: str, named: str
) -> None:
    folder = shutil.copytree(training_folder, tmp_path / "copy")
    shutil.rmtree(folder / missing)
    with pytest.raises(InputError, match=named):
        ImageLibrary(folder)


def test_cropping_keeps_the_object_alone() -> None:
    mask = np.zeros((20, 30), np.uint8)
    mask[5:9, 12:20] = 1
    image = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    cropped = Cutout(image, mask, "horse").cropped()
    assert cropped.mask.shape == (4, 8) and cropped.mask.all() and cropped.category == "horse"
    np.testing.assert_array_equal(cropped.image, image[5:9, 12:20])


@settings(deadline=None)
@given(scale=st.floats(0.01, 3.0))
def test_reduced_cutouts_are_shown_at_half_size_or_more(scale: float) -> None:
    cutout = Cutout(np.full((64, 96, 3), 7, np.uint8), np.ones((64, 96), np.uint8))
    reduced, left = cutout.reduced(scale)
    assert reduced.mask.shape[1] * left == pytest.approx(96 * scale)
    assert left >= 0.5 or min(reduced.mask.shape) < 4
    assert reduced.mask.all() and (reduced.image == 7).all()


def test_the_largest_part_is_kept() -> None:
    mask = np.zeros((10, 10), np.uint8)
    mask[0:2, 0:2] = 1
    mask[5:9, 5:9] = 1
    kept = largest_part(mask)
    assert kept.sum() == 16 and kept[6, 6] == 1 and kept[0, 0] == 0
