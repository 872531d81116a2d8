"""Prompts in the network's pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tempomask.prompts import Prompt
from tempomask.tracking.state import Clicks, network_mask

SIZE, SIDE = (50, 100), 64


def clicks(**parts: object) -> Clicks:
    return Clicks.of(Prompt(**parts), SIZE, SIDE)  # type: ignore[arg-type]


def test_points_and_boxes_are_scaled_each_axis_on_its_own() -> None:
    both = clicks(box=(10, 5, 90, 45), points=[(50, 25), (0, 0)], labels=[1, 0])
    assert both.labels.tolist() == [2, 3, 1, 0]
    expected = [(6.4, 6.4), (57.6, 57.6), (32, 32), (0, 0)]
    np.testing.assert_allclose(both.points, expected, rtol=1e-6)


def test_what_lies_outside_the_image_is_moved_to_its_border() -> None:
    over = clicks(box=(-3, 5, 100.4, 80), points=[(101, 50), (99.75, -1)])
    inside = clicks(box=(0, 5, 100, 50), points=[(100, 50), (99.75, 0)])
    assert np.array_equal(over.points, inside.points)


def test_points_add_to_earlier_ones_and_a_box_starts_anew() -> None:
    first, second = clicks(points=[(1, 1)]), clicks(points=[(2, 2)], labels=[0])
    both = second.after(first)
    assert both.labels.tolist() == [1, 0] and len(both.points) == 2
    box = clicks(box=(0, 0, 10, 10))
    assert box.after(both) is box
    assert second.after(box).labels.tolist() == [2, 3, 0]
    assert first.after(None) is first


def test_masks_are_resized_with_antialiasing_and_thresholded() -> None:
    mask = np.zeros(SIZE, bool)
    mask[10:40, 20:81] = True
    soft = F.interpolate(
        torch.tensor(mask)[None, None].float(), (SIDE, SIDE), mode="bilinear", antialias=True
    )
    resized = network_mask(Prompt(mask=mask), SIDE, torch.device("cpu"))
    assert torch.equal(resized, (soft[0, 0] >= 0.5).float())


def test_a_mask_of_the_right_size_is_taken_as_it_is() -> None:
    mask = np.random.default_rng(0).random((SIDE, SIDE)) > 0.5
    assert (network_mask(Prompt(mask=mask), SIDE, torch.device("cpu")).numpy() == mask).all()


@pytest.mark.parametrize("size", [(480, 640), (2160, 3840)])
def test_a_tiny_mask_does_not_vanish(size: tuple[int, int]) -> None:
    mask = np.zeros(size, bool)
    mask[100, 200] = True
    resized = network_mask(Prompt(mask=mask), SIDE, torch.device("cpu"))
    rows, columns = resized.nonzero(as_tuple=True)
    assert 0 < len(rows) <= 9
    assert abs(rows.float().mean() - 100.5 / size[0] * SIDE) < 1.5
    assert abs(columns.float().mean() - 200.5 / size[1] * SIDE) < 1.5
