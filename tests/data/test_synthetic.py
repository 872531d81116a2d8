"""Synthetic video, shapes and colours: the image itself tells that every mask is exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tempomask.data import synthetic
from tempomask.data.colour import ColourJitter, vary_colour
from tempomask.data.motion import Stage
from tempomask.data.shapes import drawn_shape
from tempomask.data.stills import Cutout
from tempomask.data.synthetic import Motion, compose, moving_image, paste, velocities
from tempomask.errors import InputError

seeds = st.integers(0, 2**32 - 1)
BLACK = np.zeros((50, 60, 3), np.uint8)
STILL = Motion(background=(0, 0), objects=(0, 0), deforming=0, crossing=0, outside=0, blur=0)


def primary(channel: int, mask: np.ndarray) -> Cutout:
    """A cut-out of one primary colour, at full brightness."""
    image = np.zeros((*mask.shape, 3), np.uint8)
    image[..., channel] = 255
    return Cutout(image, mask, f"primary {channel}")


@settings(max_examples=40, deadline=None)
@given(seed=seeds, squeezed=st.booleans(), count=st.integers(1, 3))
def test_masks_are_exact(seed: int, squeezed: bool, count: int) -> None:
    """Red, green and blue shapes on black: a channel is the share of its object in a pixel.

    So the coverage a_i of each layer can be worked out from the image, and from it the mask.
    """
    rng = np.random.default_rng(seed)
    shapes = [primary(c, drawn_shape(rng, BLACK).mask) for c in range(count)]
    stage = Stage.squeezed(64, 1.7) if squeezed else Stage.plain(80, 60)
    motion = Motion(lighting=0.0, deforming=0.7, blur=0.5, size=(0.3, 0.9), deformation=0.05)
    video = compose(rng, BLACK, shapes, 4, stage, motion)
    assert video.frames.shape == (4, stage.rows, stage.columns, 3)
    share = video.frames.astype(float) / 255
    expected, behind, unsure = np.zeros(video.ids.shape), 1.0, np.zeros(video.ids.shape, bool)
    for channel in reversed(range(count)):
        # What is left of this layer, over what the layers in front of it leave.
        coverage = share[..., channel] / np.maximum(behind, 1e-9)
        taken = expected > 0
        expected[(coverage > 0.5) & ~taken] = channel + 1
        # Eight bits a channel: where little is left, the quotient is rough.
        unsure |= (np.abs(coverage - 0.5) < 0.02 / np.maximum(behind, 0.05)) & ~taken
        behind = behind * (1 - np.minimum(coverage, 1))
    np.testing.assert_array_equal(video.ids[~unsure], expected[~unsure])
    assert unsure.mean() < 0.1


@settings(deadline=None)
@given(seed=seeds)
def test_one_white_object_is_exact_to_the_pixel(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = drawn_shape(rng, BLACK)
    white = Cutout(np.full((*shape.mask.shape, 3), 255, np.uint8), shape.mask)
    motion = Motion(lighting=0.0, blur=0.5)
    video = compose(rng, BLACK, [white], 3, Stage.plain(64, 48), motion)
    np.testing.assert_array_equal(video.ids > 0, video.frames[..., 0] > 127)


def test_an_object_keeps_its_shape_when_it_does_not_move() -> None:
    mask = np.zeros((40, 40), np.uint8)
    mask[10:30, 5:35] = 1
    motion = Motion(
        background=(0, 0), objects=(0, 0), deforming=0, outside=0, blur=0, size=(0.5, 0.5001)
    )
    ids = compose(
        np.random.default_rng(0), BLACK, [primary(0, mask)], 3, Stage.plain(60, 60), motion
    ).ids
    assert (ids == ids[:1]).all()
    ys, xs = np.nonzero(ids[0])
    # Extent 30 wide as the longer side, 20 high, unless the frame's edge cuts it.
    assert np.ptp(xs) + 1 == pytest.approx(30, abs=1) or 0 in xs or 59 in xs
    assert np.ptp(ys) + 1 == pytest.approx(20, abs=1) or 0 in ys or 59 in ys


def test_later_cutouts_are_in_front() -> None:
    whole = np.ones((40, 56), np.uint8)
    motion = Motion(
        objects=(0, 0), deforming=0, crossing=1.0, outside=0, blur=0, size=(1.5, 1.5001)
    )
    cutouts = [primary(0, whole), primary(1, whole)]
    video = compose(np.random.default_rng(0), BLACK, cutouts, 2, Stage.plain(40, 40), motion)
    assert not (video.ids == 1).any(), "an equal object placed over the first hides it"
    assert (video.ids == 2).any()
    assert video.categories == ("primary 0", "primary 1")


def test_objects_can_start_outside_and_come_in() -> None:
    motion = Motion(outside=1.0, objects=(1.0, 1.5), size=(0.4, 0.6))
    first_empty = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        cutout = primary(0, np.ones((30, 30), np.uint8))
        areas = compose(rng, BLACK, [cutout], 8, Stage.plain(64, 64), motion).ids.sum(axis=(1, 2))
        first_empty += areas[0] == 0 and areas.max() > 0
    assert first_empty > 0


def test_paste_draws_over_the_frames_it_is_given() -> None:
    frames = np.full((3, 32, 32, 3), 9, np.uint8)
    video = paste(
        np.random.default_rng(1),
        frames,
        [primary(2, np.ones((9, 9), np.uint8))],
        Stage.plain(32, 32),
        STILL,
    )
    assert video.frames is frames
    away = video.frames[(video.ids == 0) & (video.frames[..., 2] == 9)]
    assert len(away) and (away == 9).all()


def test_a_camera_at_rest_shows_the_same_image() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)
    frames = moving_image(np.random.default_rng(1), image, 3, Stage.plain(40, 30), STILL)
    assert frames.shape == (3, 30, 40, 3)
    assert (frames == frames[:1]).all()


def test_no_part_of_a_deformed_object_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing in the box of an object alone gives what drawing in the whole frame gives."""
    motion = Motion(lighting=0.0, deforming=1.0, deformation=0.2, blur=1.0, size=(0.3, 0.5))
    cutout, stage = primary(0, np.ones((20, 30), np.uint8)), Stage.plain(64, 48)

    def videos() -> list[np.ndarray]:
        rngs = map(np.random.default_rng, range(12))
        return [compose(rng, BLACK, [cutout], 3, stage, motion).frames.astype(int) for rng in rngs]

    boxed = videos()
    monkeypatch.setattr(synthetic._Actor, "_box", lambda *_: (0, 0, 64, 48))
    differences = [np.abs(a - b) for a, b in zip(boxed, videos(), strict=True)]
    # Positions are rounded to 1/32 of a pixel from another origin.
    assert max(difference.max() for difference in differences) <= 17


@pytest.mark.parametrize(
    ("count", "mask", "message"),
    [(256, 1, "256 cut-outs"), (1, 0, "cut-out 1 has an empty mask")],
)
def test_bad_cutouts_are_refused(count: int, mask: int, message: str) -> None:
    cutout = primary(0, np.full((5, 5), mask, np.uint8))
    with pytest.raises(InputError, match=message):
        compose(np.random.default_rng(0), BLACK, [cutout] * count, 1, Stage.plain(16, 16))


def test_velocity_of_a_single_frame_is_zero() -> None:
    assert (velocities([np.array([3.0, 4.0])]) == 0).all()
    np.testing.assert_allclose(velocities([np.zeros(2), np.array([2.0, 1.0])]), [[2, 1], [2, 1]])


@settings(deadline=None)
@given(seed=seeds)
@example(seed=22534)  # slim, and nearly all of it hole
def test_drawn_shapes_have_area(seed: int) -> None:
    cutout = drawn_shape(np.random.default_rng(seed), np.full((100, 150, 3), 50, np.uint8))
    assert cutout.image.shape == (128, 128, 3) and cutout.image.dtype == np.uint8
    assert set(np.unique(cutout.mask)) == {0, 1}
    assert 0.01 < cutout.mask.mean() < 0.8


def test_drawn_shapes_vary_in_filling_and_holes() -> None:
    import cv2

    shapes = [drawn_shape(np.random.default_rng(s), BLACK) for s in range(80)]
    with_hole = [len(cv2.findContours(s.mask, cv2.RETR_LIST, 2)[0]) > 1 for s in shapes]
    assert 0.05 < np.mean(with_hole) < 0.5
    plain = [np.ptp(s.image) == 0 for s in shapes]
    assert 0.3 < np.mean(plain) < 0.8, "half are filled from the texture, which is black here"


def test_colour_changes_are_one_for_the_clip() -> None:
    frames = np.tile(np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3)), (3, 1, 1, 1))
    steady = ColourJitter(drift=0, flicker=0)
    varied = vary_colour(np.random.default_rng(1), frames.astype(np.uint8), steady)
    assert varied.shape == frames.shape and varied.dtype == np.uint8
    assert (varied == varied[:1]).all() and not np.array_equal(varied, frames)
    drifting = vary_colour(np.random.default_rng(1), frames.astype(np.uint8))
    assert not (drifting == drifting[:1]).all()


def test_no_jitter_changes_nothing() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    none = ColourJitter(*[0.0] * 9)
    np.testing.assert_array_equal(vary_colour(np.random.default_rng(0), frames, none), frames)


def test_grey_clips_have_equal_channels() -> None:
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3)).astype(np.uint8)
    grey = vary_colour(np.random.default_rng(0), frames, ColourJitter(grey=1.0, tint=0.0)).astype(
        int
    )
    assert np.ptp(grey, axis=3).max() <= 1
