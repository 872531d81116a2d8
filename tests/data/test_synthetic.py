"""Motion and composed video: masks are exact, motion starts at rest, clips repeat themselves."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tempomask.data.clips import ClipMixture, Mixture, collate
from tempomask.data.motion import Placement, affine_path, deformation, trajectory, warp, warp_mask
from tempomask.data.stills import PictureLibrary
from tempomask.data.synthetic import Cutout, Motion, compose, drawn_shape, vary_colour
from tempomask.errors import InputError

SIDE = 48


def flat(colour: int, size: tuple[int, int] = (40, 56)) -> np.ndarray:
    return np.full((*size, 3), colour, np.uint8)


def square_cutout(colour: int) -> Cutout:
    mask = np.zeros((40, 56), np.uint8)
    mask[8:30, 12:40] = 1
    return Cutout(flat(colour), mask)


def test_trajectory_starts_at_rest_and_scales_with_strength() -> None:
    calm, wild = (trajectory(np.random.default_rng(0), 6, s) for s in (0.1, 1.0))
    assert np.all(calm[0] == 0)
    np.testing.assert_allclose(10 * calm, wild)


def test_path_begins_at_its_placement() -> None:
    place = Placement(anchor=(10, 20), target=(30, 25), scale=0.5, mirrored=True)
    first = affine_path(np.random.default_rng(1), 4, SIDE, place, 1.0)[0]
    np.testing.assert_allclose(first @ [10, 20, 1], [30, 25])
    assert np.linalg.det(first[:, :2]) == pytest.approx(-0.25)


def test_warp_without_and_with_a_zero_displacement_agree() -> None:
    image = np.random.default_rng(2).integers(0, 256, (40, 56, 3)).astype(np.uint8)
    matrix = np.array([[1.1, 0.1, -3.0], [-0.2, 0.9, 6.0]])
    plain = warp(image, matrix, SIDE).astype(int)
    displaced = warp(image, matrix, SIDE, np.zeros((SIDE, SIDE, 2), np.float32)).astype(int)
    # Both interpolate at fixed-point positions of 1/32 pixel.
    assert np.abs(plain - displaced).mean() < 1.5


def test_deformation_grows_from_nothing() -> None:
    fields = deformation(np.random.default_rng(3), 5, SIDE, 0.05)
    assert np.abs(fields[0]).max() == 0
    assert np.abs(fields[-1]).max() > 0


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_masks_are_exact(seed: int) -> None:
    """Objects of one colour over a background of another: the picture itself tells the mask."""
    rng = np.random.default_rng(seed)
    colours = [60, 120, 180]
    # Neither slivers, which are all edge, nor objects that grow a lot, whose edges are soft.
    motion = Motion(blur=0.0, objects=(0.1, 0.4), deforming=0.0, size=(0.5, 0.75))
    video = compose(rng, flat(0), [square_cutout(c) for c in colours], 4, SIDE, motion)
    kernel = np.ones((7, 7), np.uint8)
    for frame, ids in zip(video.frames, video.ids, strict=True):
        # Soft edges reach two pixels: leave out the pixels near a change of id.
        inner = cv2.morphologyEx(ids, cv2.MORPH_GRADIENT, kernel) == 0
        # At the border, an object just outside may show its edge alone.
        inner &= np.pad(np.ones((SIDE - 10, SIDE - 10), bool), 5)
        assert frame[inner & (ids == 0)].max(initial=0) == 0
        for number in np.unique(ids[inner])[1:]:
            values = frame[inner & (ids == number)].astype(int)
            # Each object has one gain of its own, so its colour is one value, and not zero.
            assert np.ptp(values) <= 1
            assert values.min() > 0


def test_later_cutouts_are_in_front() -> None:
    whole = Cutout(flat(200), np.ones((40, 56), np.uint8))
    motion = Motion(objects=(0, 0), deforming=0, blur=0, size=(4.0, 4.01))
    video = compose(np.random.default_rng(0), flat(0), [square_cutout(9), whole], 2, SIDE, motion)
    assert np.unique(video.ids).tolist() in ([2], [0, 2])


@given(seed=st.integers(0, 10_000))
def test_drawn_shapes_have_area(seed: int) -> None:
    cutout = drawn_shape(np.random.default_rng(seed), flat(50, (140, 150)))
    assert cutout.picture.shape == (128, 128, 3)
    assert 0.01 < cutout.mask.mean() < 0.95


def test_colour_changes_keep_type_and_shape() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3)).astype(np.uint8)
    varied = vary_colour(np.random.default_rng(1), frames)
    assert varied.shape == frames.shape and varied.dtype == np.uint8
    assert not np.array_equal(varied, frames)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The layout of the training data with two pictures a set and two short sequences."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)

    def save(path: Path, array: np.ndarray) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(array).save(path)

    for name in ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500"):
        for index in range(2):
            picture = rng.integers(0, 256, (140, 160, 3)).astype(np.uint8)
            label = np.zeros((140, 160), np.uint8)
            label[20:70, 30:90] = 1
            label[80:120, 60:120] = 2
            save(folder / "stills-256" / name / "images" / f"{index}.jpg", picture)
            save(folder / "stills-256" / name / "labels" / f"{index}.png", label)
    for name in ("cow", "dog"):
        for index in range(12):
            mask = np.zeros((140, 180), np.uint8)
            mask[40:90, 30 + 3 * index : 90 + 3 * index] = 1
            frame = rng.integers(0, 90, (140, 180, 3)).astype(np.uint8)
            frame[mask > 0] = 220
            davis = folder / "davis16-train-256"
            save(davis / "JPEGImages" / name / f"{index:05d}.jpg", frame)
            save(davis / "Annotations" / name / f"{index:05d}.png", mask)
    return folder


@pytest.mark.parametrize(
    "mixture", [Mixture(1, 0, 0), Mixture(0, 1, 0), Mixture(0, 0, 1), Mixture()]
)
def test_every_source_gives_clips(root: Path, mixture: Mixture) -> None:
    clips = ClipMixture(root, image_size=64, num_frames=3, seed=4, mixture=mixture)
    for index in range(6):
        clip = clips[index]
        assert clip.frames.shape == (3, 64, 64, 3) and clip.frames.dtype == np.uint8
        assert clip.masks.shape == (3, 64, 64) and set(np.unique(clip.masks)) <= {0, 1}
        assert clip.masks[0].mean() > 0.003


def test_clips_depend_on_seed_and_index_alone(root: Path) -> None:
    first, again = (ClipMixture(root, image_size=64, num_frames=3, seed=4) for _ in range(2))
    again[11]
    assert all(np.array_equal(a, b) for a, b in zip(first[5][:2], again[5][:2], strict=True))
    other = ClipMixture(root, image_size=64, num_frames=3, seed=5)
    assert not np.array_equal(first[5].frames, other[5].frames)
    assert not np.array_equal(first[5].frames, first[6].frames)


def test_davis_masks_follow_their_pixels(root: Path) -> None:
    clips = ClipMixture(root, image_size=64, num_frames=3, mixture=Mixture(1, 0, 0))
    for index in range(6):
        clip = clips[index]
        grey = clip.frames.astype(int).mean(axis=3)
        for frame, mask in zip(grey, clip.masks, strict=True):
            if 0.02 < mask.mean() < 0.9:
                assert frame[mask > 0].mean() > 1.4 * frame[mask == 0].mean()


def test_held_out_sequences_stay_out(root: Path) -> None:
    assert list(PictureLibrary(root, held_out=("cow",)).sequences) == ["dog"]


def test_missing_data_is_named(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="person-ccp"):
        PictureLibrary(tmp_path)
    del root


def test_collate_stacks(root: Path) -> None:
    clips = ClipMixture(root, image_size=64, num_frames=3)
    frames, masks = collate([clips[0], clips[1]])
    assert frames.shape == (2, 3, 64, 64, 3)
    assert masks.shape == (2, 3, 64, 64)


def test_mask_coverage_ends_at_the_cutout() -> None:
    matrix = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    coverage = warp_mask(np.ones((10, 10), np.uint8), matrix, SIDE)
    assert coverage[:10, :10].min() == 255 and coverage[11:, 11:].max() == 0
