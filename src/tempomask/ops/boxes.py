"""Boxes of masks, and how far two boxes overlap.

A box here is (x0, y0, x1, y1) of the first and the last pixel, as SAMURAI counts: the box of a
single pixel has no area.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def mask_extents(masks: Tensor) -> Tensor:
    """Masks (..., H, W), bool, to boxes (..., 4), long: the first and last column and row.

    Zeros for an empty mask.
    """
    columns, rows = masks.any(dim=-2).int(), masks.any(dim=-1).int()
    width, height = columns.shape[-1], rows.shape[-1]
    boxes = masks.new_zeros((*masks.shape[:-2], 4), dtype=columns.argmax(dim=-1).dtype)
    # argmax gives the first of equal values.
    boxes[..., 0], boxes[..., 1] = columns.argmax(dim=-1), rows.argmax(dim=-1)
    boxes[..., 2] = width - 1 - columns.flip(-1).argmax(dim=-1)
    boxes[..., 3] = height - 1 - rows.flip(-1).argmax(dim=-1)
    return boxes * masks.flatten(-2).any(dim=-1)[..., None]


def box_overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """IoU of two boxes; 0 where neither has an area."""
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    common = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common
    return common / union if union != 0 else 0.0
