"""Run-length encoding, compared with pycocotools."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco

from tempomask.errors import InputError
from tempomask.rle import decode_rle, encode_rle


@st.composite
def any_mask(draw: st.DrawFn) -> np.ndarray:
    height, width = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    density = draw(st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    mask = random.random((height, width)) < density
    if draw(st.booleans()):  # runs of very different lengths: differences of either sign
        mask[:, : width // 2] = draw(st.booleans())
    return mask


@settings(max_examples=150, deadline=None)
@given(any_mask())
def test_same_as_pycocotools(mask: Any) -> None:
    ours = encode_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    assert ours == {"size": theirs["size"], "counts": theirs["counts"].decode()}
    assert json.loads(json.dumps(ours)) == ours
    decoded = decode_rle(ours)
    assert decoded.dtype == bool
    np.testing.assert_array_equal(decoded, mask)


def test_large_masks_and_other_types() -> None:
    mask = np.zeros((3000, 4000), np.uint8)
    mask[10:2990, 17:3990] = 7
    ours = encode_rle(mask)
    theirs = coco.encode(np.asfortranarray(mask != 0, dtype=np.uint8))
    assert ours["counts"] == theirs["counts"].decode()
    np.testing.assert_array_equal(decode_rle(ours), mask != 0)


def test_plain_counts_and_bytes() -> None:
    wanted = [[False, True, True], [True, True, False]]
    assert decode_rle({"size": [2, 3], "counts": [1, 4, 1]}).tolist() == wanted
    packed = coco.encode(np.asfortranarray(wanted, dtype=np.uint8))
    assert decode_rle(packed).tolist() == wanted


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        ({"size": [3, 3], "counts": [1, 2]}, "add up to 3, not to 9"),
        ({"size": [3, 3], "counts": [5, 5]}, "add up to 10"),
        ({"size": [3, 3], "counts": [2**62, 2**62, 2**62, 2**62, 9]}, "damaged|add up"),
        ({"size": [3, 3], "counts": [-1, 10]}, "add up to"),
        ({"size": [4, 4], "counts": encode_rle(np.eye(3))["counts"]}, "not to 16"),
        ({"size": [3, 3], "counts": "0R"}, "end early"),
        ({"size": [3, 3], "counts": "0~"}, "other characters"),
        ({"size": [3, 3], "counts": ""}, "other characters"),
        ({"size": [3, 3]}, "need size, counts"),
        ({"size": 3, "counts": "0"}, "need size, counts"),
        ({"size": [3, 3], "counts": ["a"]}, "need size, counts"),
        (None, "need size, counts"),
        ({"size": [True, True], "counts": [1]}, "need size, counts"),
        ({"size": [10**4000, 10**4000], "counts": [1]}, "countless pixels"),
    ],
)
def test_what_is_no_encoding(rle: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode_rle(rle)


@pytest.mark.parametrize("shape", [(2, 2, 2), (4,), (0, 3)])
def test_what_is_no_mask(shape: Any) -> None:
    with pytest.raises(InputError, match=r"one mask \(H, W\)"):
        encode_rle(np.zeros(shape))
