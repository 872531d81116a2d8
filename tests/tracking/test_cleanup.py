"""Hole filling and overlap removal against naive loops."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tempomask.tracking.cleanup import fill_holes, without_overlap


def naive_fill(logits: np.ndarray, area: int) -> np.ndarray:
    """Flood fill with eight neighbours."""
    filled, seen = logits.copy(), np.zeros(logits.shape, bool)
    height, width = logits.shape
    for start in zip(*np.nonzero(logits <= 0), strict=True):
        if seen[start]:
            continue
        region, stack = [], [start]
        seen[start] = True
        while stack:
            y, x = stack.pop()
            region.append((y, x))
            for v in range(max(y - 1, 0), min(y + 2, height)):
                for u in range(max(x - 1, 0), min(x + 2, width)):
                    if logits[v, u] <= 0 and not seen[v, u]:
                        seen[v, u] = True
                        stack.append((v, u))
        if len(region) <= area:
            for place in region:
                filled[place] = 0.1
    return filled


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 1000), area=st.integers(1, 9), share=st.floats(0.1, 0.9))
def test_holes_up_to_an_area_are_filled(seed: int, area: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    logits = np.where(rng.random((2, 9, 11)) < share, -3.0, 2.0).astype(np.float32)
    expected = np.stack([naive_fill(one, area) for one in logits])
    filled = fill_holes(torch.from_numpy(logits), area)
    np.testing.assert_allclose(filled.numpy(), expected)


def test_filling_leaves_its_input_alone() -> None:
    logits = torch.full((1, 3, 3), 5.0)
    logits[0, 1, 1] = 0.0
    filled = fill_holes(logits, 1)
    assert logits[0, 1, 1] == 0 and filled[0, 1, 1] == np.float32(0.1)


def test_overlap_goes_to_the_strongest() -> None:
    logits = torch.tensor([[[1.0, 3.0, -20.0]], [[2.0, -4.0, -30.0]]])
    assert without_overlap(logits).tolist() == [[[-10, 3, -20]], [[2, -10, -30]]]
    assert without_overlap(logits[:1]) is not None
    assert without_overlap(logits[:1]).tolist() == logits[:1].tolist()
