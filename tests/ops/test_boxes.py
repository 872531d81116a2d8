"""Boxes of masks, and their overlap."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.ops.boxes import box_overlap, mask_extents


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_extents_of_masks(height: int, width: int, data: st.DataObject) -> None:
    cells = data.draw(st.lists(st.booleans(), min_size=height * width, max_size=height * width))
    mask = np.array(cells).reshape(height, width)
    rows, columns = mask.nonzero()
    expected = (
        [columns.min(), rows.min(), columns.max(), rows.max()] if mask.any() else [0, 0, 0, 0]
    )
    found = mask_extents(torch.from_numpy(np.stack([mask, np.zeros_like(mask)])))
    assert found.tolist() == [expected, [0, 0, 0, 0]]


def test_overlap_of_boxes_without_area() -> None:
    assert box_overlap((3, 3, 3, 3), (3, 3, 3, 3)) == 0.0
    assert box_overlap((0, 0, 4, 4), (2, 2, 2, 9)) == 0.0
    assert box_overlap((0, 0, 4, 4), (2, 0, 6, 4)) == pytest.approx(1 / 3)
