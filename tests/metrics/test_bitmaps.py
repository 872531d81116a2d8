"""Masks with 64 pixels to a word, against loops over pixels."""

from __future__ import annotations

import math

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.morphology import disk

from tempomask.metrics.bitmaps import boundaries, count, dilate, pack

masks = st.builds(
    lambda seed, shape, density: np.random.default_rng(seed).random(shape) < density,
    seed=st.integers(0, 2**32 - 1),
    shape=st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 140)),
    density=st.sampled_from([0.01, 0.1, 0.5, 1.1]),
)


def unpack(bits: np.ndarray, width: int) -> np.ndarray:
    """Masks bool (M, H, W) of bitmaps, whose padding must be empty."""
    flat = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=-1, bitorder="little")
    assert not flat[..., width:].any(), "padding bits are set"
    return flat[..., :width].astype(bool)


@settings(deadline=None)
@given(masks=masks, padding=st.integers(0, 80))
def test_pack_and_count(masks: np.ndarray, padding: int) -> None:
    bits = pack(masks, padding)
    assert bits.shape[2] * 64 >= masks.shape[2] + padding
    assert np.array_equal(unpack(bits, masks.shape[2]), masks)
    assert count(bits).tolist() == masks.sum(axis=(1, 2)).tolist()


@settings(deadline=None, max_examples=60)
@given(masks=masks)
def test_boundaries_differ_from_a_neighbour(masks: np.ndarray) -> None:
    _, height, width = masks.shape
    expected = np.zeros_like(masks)
    for k, y, x in np.ndindex(masks.shape):
        below, right = min(y + 1, height - 1), min(x + 1, width - 1)
        neighbours = masks[k, y, right], masks[k, below, x], masks[k, below, right]
        expected[k, y, x] = any(other != masks[k, y, x] for other in neighbours)
    assert np.array_equal(unpack(boundaries(pack(masks, 1), width), width), expected)


@settings(deadline=None, max_examples=60)
@given(masks=masks, radius=st.floats(1, 9))
def test_dilation_by_a_fraction_is_that_of_opencv(masks: np.ndarray, radius: float) -> None:
    """With the disk of scikit-image, as MOSEv2's tool does it."""
    kernel = disk(radius)
    expected = [cv2.dilate(mask.astype(np.uint8), kernel) > 0 for mask in masks]
    width = masks.shape[2]
    bits = dilate(pack(masks, math.ceil(radius) + 1), radius)
    flat = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=-1, bitorder="little")
    assert np.array_equal(flat[..., :width].astype(bool), expected)


@settings(deadline=None, max_examples=60)
@given(masks=masks, radius=st.integers(0, 9))
def test_dilation_reaches_the_radius(masks: np.ndarray, radius: int) -> None:
    expected = np.zeros_like(masks)
    rows, columns = np.indices(masks.shape[1:])
    for k, y, x in np.argwhere(masks):
        expected[k] |= (rows - y) ** 2 + (columns - x) ** 2 <= radius**2
    width = masks.shape[2]
    bits = dilate(pack(masks, radius), radius)
    flat = np.unpackbits(bits.astype("<u8").view(np.uint8), axis=-1, bitorder="little")
    assert np.array_equal(flat[..., :width].astype(bool), expected)


def test_dilation_by_more_than_a_word() -> None:
    mask = np.zeros((1, 3, 400), bool)
    mask[0, 1, 200] = True
    rows, columns = np.nonzero(unpack_row(dilate(pack(mask, 90), 90), 400))
    assert set(rows) == {0, 1, 2}
    reach = math.isqrt(90**2 - 1)
    assert (columns[rows == 1].min(), columns[rows == 1].max()) == (110, 290)
    assert (columns[rows == 0].min(), columns[rows == 0].max()) == (200 - reach, 200 + reach)
    assert len(columns) == 181 + 2 * (2 * reach + 1)


def unpack_row(bits: np.ndarray, width: int) -> np.ndarray:
    flat = np.unpackbits(bits[0].astype("<u8").view(np.uint8), axis=-1, bitorder="little")
    return flat[:, :width]
