"""The image library: lists what is there, names what is not, and cuts objects out."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.data.stills import (
    Cutout,
    ImageLibrary,
    held_out_images,
    labelled_images,
    largest_part,
)
from tempomask.errors import InputError, InputWarning


def test_every_labelled_image_is_listed(training_folder: Path) -> None:
    library = ImageLibrary(training_folder)
    assert len(library.objects) == 6 and len(library.nuclei) == 2 and len(library.regions) == 2
    assert {still.category for still in library.objects} == {"person", "horse"}
    assert {name: sorted(videos) for name, videos in library.videos.items()} == {
        "davis16-train-256": ["cow", "dog"],
        "davis17-schoolgirls": ["girls"],
        "xiph8": ["band", "bus"],
    }
    assert all(len(v.images) == 12 for videos in library.videos.values() for v in videos.values())


def test_images_without_a_label_are_told(tmp_path: Path) -> None:
    for part, names in (("images", "abc"), ("labels", "b")):
        (tmp_path / part).mkdir()
        for name in names:
            (tmp_path / part / f"{name}.png").touch()
    with pytest.warns(InputWarning, match=r"2 images .*a\.png"):
        assert [still.image.stem for still in labelled_images(tmp_path, "object")] == ["b"]


def test_images_are_read_once(training_folder: Path) -> None:
    library = ImageLibrary(training_folder)
    path = library.objects[0].image
    first = library.image(path)
    assert first.shape == (140, 160, 3) and first.dtype == np.uint8
    assert library.image(path) is first


@pytest.mark.parametrize("draw", ["object", "scene_object", "nucleus", "region"])
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
    drawn = [library.video(np.random.default_rng(s)).images[0].parent.name for s in range(60)]
    assert "dog" in drawn and "cow" not in drawn
    for seed in range(60):
        library.object(np.random.default_rng(seed))
        library.any_image(np.random.default_rng(seed))
    assert "cow" not in {path.parent.name for path in library._read}
    with pytest.raises(InputError, match="'cat'"):
        ImageLibrary(training_folder, held_out=("cat",))


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        ("stills-256/horse-weizmann/labels", "horse-weizmann"),
        ("stills-256/nuclei-dsb2018", "nuclei"),
        ("davis16-train-256", "JPEGImages"),
        ("coco-mini/labels", "coco-mini"),
        ("davis17-challenge-first", "davis17-challenge-first"),
        ("xiph8", "xiph8"),
    ],
)
def test_missing_data_is_named(
    training_folder: Path, tmp_path: Path, missing: str, named: str
) -> None:
    folder = shutil.copytree(training_folder, tmp_path / "copy")
    shutil.rmtree(folder / missing)
    with pytest.raises(InputError, match=named):
        ImageLibrary(folder)


def test_measured_images_are_never_trained_on(training_folder: Path) -> None:
    measured = [still.image for still in held_out_images(training_folder)]
    assert [path.stem for path in measured] == ["000", "010"], "every tenth by name"
    library = ImageLibrary(training_folder)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        library.scene(rng)
        cutout = library.scene_object(rng)
        if cutout is not None:
            library.alike(rng, cutout)
    read = set(library._read)
    assert read and not read & set(measured)
    assert len({path for path in read if "coco-mini/images" in str(path)}) == 10, "all others are"


def test_look_alikes_are_of_the_same_category(training_folder: Path) -> None:
    library = ImageLibrary(training_folder)
    rng = np.random.default_rng(0)
    for category in ("cup", "ball"):
        still, number = library._by_category[category][0]
        cutout = library._cut(still, number, category)
        assert cutout is not None
        others = [library.alike(rng, cutout) for _ in range(20)]
        assert {other.category for other in others if other is not None} == {category}
        assert any(other is not None and other.image is not cutout.image for other in others)


def test_single_object_video_has_one_id(training_folder: Path) -> None:
    library = ImageLibrary(training_folder)
    girls = library.videos["davis17-schoolgirls"]["girls"]
    assert np.unique(library.ids(girls, 0)).tolist() == [0, 1, 2]
    cow = library.videos["davis16-train-256"]["cow"]
    assert np.unique(library.ids(cow, 0)).tolist() == [0, 1]


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
