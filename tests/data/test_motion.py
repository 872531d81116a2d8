"""Motion: starts at its placement, stays smooth and bounded; warps equal a naive resampling."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.data.motion import (
    Placement,
    Stage,
    affine_path,
    deformation,
    keep_inside,
    motion_kernel,
    trajectory,
    warp,
)

seeds = st.integers(0, 2**32 - 1)
STAGE = Stage.squeezed(48, 16 / 9)


@settings(deadline=None)
@given(seed=seeds, length=st.integers(1, 40))
def test_trajectories_start_at_zero_and_scale_with_strength(seed: int, length: int) -> None:
    calm, wild = (trajectory(np.random.default_rng(seed), length, s) for s in (0.1, 1.0))
    assert calm.shape == (length, 6)
    assert np.all(calm[0] == 0)
    np.testing.assert_allclose(10 * calm, wild)


def test_long_trajectories_stay_in_reach() -> None:
    """Without the spring, 300 frames at a velocity of about 1 would lead some 300 away."""
    ends = [np.abs(trajectory(np.random.default_rng(s), 300, 1.0)).max() for s in range(20)]
    assert np.median(ends) < 60


@settings(deadline=None)
@given(seed=seeds, frame=st.integers(0, 3))
def test_paths_pass_through_their_placement(seed: int, frame: int) -> None:
    place = Placement((10, 20), (30, 25), scale=0.5, mirrored=True, frame=frame)
    path = affine_path(np.random.default_rng(seed), 4, STAGE, place, 1.0)
    np.testing.assert_allclose(path[frame] @ [10, 20, 1], [30, 25])
    assert all(np.linalg.det(matrix[:, :2]) < 0 for matrix in path), "mirrored in every frame"
    assert np.linalg.det(path[0][:, :2]) == pytest.approx(-0.25)


@settings(deadline=None)
@given(seed=seeds, aspect=st.floats(0.5, 2.0), strength=st.floats(0, 2))
def test_cameras_stay_inside_the_image(seed: int, aspect: float, strength: float) -> None:
    height, width = 60, 90
    stage = Stage.squeezed(48, aspect)
    place = Placement((40, 30), (stage.width / 2, stage.height / 2), 0.5, mirrored=False)
    path = affine_path(np.random.default_rng(seed), 5, stage, place, strength)
    corners = np.array(
        [[0, 1, 0, 1], [0, 0, 1, 1]] * np.array([[stage.width], [stage.height]]).repeat(4, axis=1)
    )
    for matrix in keep_inside(path, (height, width), stage, slack=0.0):
        source = np.linalg.inv(matrix[:, :2]) @ (corners - matrix[:, 2:])
        assert source.min() > -1e-6
        assert (source.max(axis=1) < np.array([width, height]) + 1e-6).all()


def test_a_path_that_is_inside_is_left_alone() -> None:
    stage = Stage.plain(20, 20)
    path = [np.array([[1.0, 0, -30], [0, 1.0, -35]])]
    np.testing.assert_allclose(keep_inside(path, (80, 80), stage)[0], path[0])


def test_squeezing_shows_the_whole_stage_as_a_square() -> None:
    stage = Stage.squeezed(64, 2.0)
    assert stage.width / stage.height == pytest.approx(2.0)
    corner = stage.show(np.eye(3)[:2]) @ [stage.width, stage.height, 1]
    np.testing.assert_allclose(corner, [64, 64])


def test_deformation_grows_from_nothing() -> None:
    fields = deformation(np.random.default_rng(3), 5, (30, 50), 0.05)
    assert [field.shape for field in fields] == [(30, 50, 2)] * 5
    assert np.abs(fields[0]).max() == 0
    assert np.abs(fields[-1]).max() > 0.5


def naive_warp(
    image: np.ndarray, matrix: np.ndarray, size: tuple[int, int], field: np.ndarray
) -> np.ndarray:
    """Bilinear resampling, pixel by pixel, 0 beyond the edge."""
    out = np.zeros(size)
    inverse = np.linalg.inv(matrix[:, :2])
    padded = np.pad(image.astype(float), 1)
    for row in range(size[0]):
        for column in range(size[1]):
            x, y = inverse @ (np.array([column, row]) + field[row, column] - matrix[:, 2]) + 1
            if 0 <= x < padded.shape[1] - 1 and 0 <= y < padded.shape[0] - 1:
                i, j, u, v = int(y), int(x), y % 1, x % 1
                top = padded[i, j] * (1 - v) + padded[i, j + 1] * v
                bottom = padded[i + 1, j] * (1 - v) + padded[i + 1, j + 1] * v
                out[row, column] = top * (1 - u) + bottom * u
    return out


@settings(max_examples=15, deadline=None)
@given(seed=seeds, displaced=st.booleans())
def test_warp_equals_a_naive_resampling(seed: int, displaced: bool) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (12, 17)).astype(np.uint8)
    matrix = np.column_stack([np.eye(2) + rng.normal(size=(2, 2)) * 0.2, rng.normal(size=2) * 3])
    size = (14, 20)
    field = rng.normal(size=(*size, 2)).astype(np.float32) * displaced
    given_field = field if displaced else None
    warped = warp(image, matrix, size, given_field, empty_border=True).astype(float)
    # OpenCV rounds positions to 1/32 of a pixel: that much of the steepest slope.
    assert np.abs(warped - naive_warp(image, matrix, size, field)).max() <= 255 / 32 + 1


@settings(deadline=None)
@given(seed=seeds, displaced=st.booleans())
def test_a_part_is_warped_as_the_whole(seed: int, displaced: bool) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (30, 30, 3)).astype(np.uint8)
    matrix = np.array([[1.1, 0.2, -3.0], [-0.1, 0.9, 2.0]])
    field = deformation(rng, 2, (40, 50), 0.05)[1] if displaced else None
    whole = warp(image, matrix, (40, 50), field)
    part_field = None if field is None else field[8:30, 12:33]
    part = warp(image, matrix, (22, 21), part_field, origin=(12, 8))
    assert np.abs(part.astype(int) - whole[8:30, 12:33]).mean() < 2


@pytest.mark.parametrize(
    ("velocity", "shape", "where"),
    [((8, 0), (5, 5), [2, slice(None)]), ((0, -12), (7, 7), [slice(None), 3])],
)
def test_motion_blur_lies_along_the_velocity(velocity: Any, shape: Any, where: Any) -> None:
    kernel = motion_kernel(np.array(velocity, float))
    assert kernel is not None and kernel.shape == shape
    assert kernel.sum() == pytest.approx(1)
    assert kernel[tuple(where)].sum() == pytest.approx(1)
    assert (kernel[tuple(where)] > 0).all()


@pytest.mark.parametrize("speed", [0.0, 2.9])
def test_slow_things_are_not_blurred(speed: float) -> None:
    assert motion_kernel(np.array([speed, 0.0])) is None


def test_blur_has_a_longest_streak() -> None:
    kernel = motion_kernel(np.array([400.0, 300.0]))
    assert kernel is not None and max(kernel.shape) <= 15
