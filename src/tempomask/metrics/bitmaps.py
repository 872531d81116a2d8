"""Binary masks with 64 pixels to a word: boundaries, disk dilation and counting at word speed.

M masks of H x W pixels are an array uint64 (M, H, words); pixel x of a row is bit x % 64 of its
word x // 64. Every row ends with padding bits, which are 0.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Bitmaps = NDArray[np.uint64]
_WORD = 64


def pack(masks: NDArray[np.bool_], padding: int) -> Bitmaps:
    """Bitmaps of masks bool (M, H, W), with at least `padding` 0 bits at the end of each row."""
    count, height, width = masks.shape
    words = -(-(width + padding) // _WORD)
    packed = np.zeros((count, height, words * 8), dtype=np.uint8)
    packed[..., : -(-width // 8)] = np.packbits(masks, axis=-1, bitorder="little")
    return packed.view(np.dtype("<u8")).astype(np.uint64, copy=False)


def boundaries(masks: Bitmaps, width: int) -> Bitmaps:
    """Boundaries 1 pixel wide, on the upper left side of each edge (David Martin's seg2bmap).

    A pixel is on the boundary if its right, lower or lower right neighbour differs from it; beyond
    the image, whose width in pixels is given, the last column and the last row go on.
    """
    east = masks >> np.uint64(1)
    east[..., :-1] |= masks[..., 1:] << np.uint64(_WORD - 1)
    word, bit = divmod(width - 1, _WORD)
    east[..., word] |= masks[..., word] & np.uint64(1 << bit)
    edges = masks ^ east
    edges[:, :-1] |= (masks[:, :-1] ^ masks[:, 1:]) | (masks[:, :-1] ^ east[:, 1:])
    return edges


def dilate(masks: Bitmaps, radius: float) -> Bitmaps:
    """Every pixel at a Euclidean distance of at most `radius` from a mask pixel of its image.

    A radius that is not a whole number gives the disk of scikit-image, which lies off its centre.
    The masks need `radius` padding bits, rounded up: what spills over the side of a row lands
    there.
    """
    height = masks.shape[1]
    grown = np.zeros_like(masks)
    # From the tip of the disk to its middle the reach only grows, so that each spread is made from
    # the one before.
    spread, reach = masks, 0
    for dy, left, right in _disk(radius):
        wanted = max(min(left, right), 0)
        while reach < wanted:
            # Three copies of a run of 2 reach + 1 bits join without a gap up to this step.
            step = min(wanted - reach, 2 * reach + 1, _WORD - 1)
            spread = _towards_start(spread, step) | spread | _towards_end(spread, step)
            reach += step
        # Off the centre, the run goes on by a bit or two on one side.
        row = spread if min(left, right) >= 0 else np.zeros_like(spread)
        for step in range(max(1, -right), left - wanted + 1):
            row = row | _towards_end(spread, step)
        for step in range(max(1, -left), right - wanted + 1):
            row = row | _towards_start(spread, step)
        if abs(dy) < height:
            grown[:, max(-dy, 0) : height - max(dy, 0)] |= row[:, max(dy, 0) : height + min(dy, 0)]
    return grown


@cache
def _disk(radius: float) -> tuple[tuple[int, int, int], ...]:
    """Rows (dy, left, right) of a disk: from its anchor - left to + right, the narrowest first.

    As `skimage.morphology.disk` lays its grid from -radius on in steps of 1, and OpenCV takes the
    middle of the grid as the anchor.
    """
    steps = np.arange(-radius, radius + 1)
    middle = len(steps) // 2
    inside = steps[:, None] ** 2 + steps**2 <= radius * radius
    rows = []
    for row, columns in enumerate(inside):
        there = np.flatnonzero(columns) - middle
        if len(there):
            rows.append((row - middle, -int(there[0]), int(there[-1])))
    return tuple(sorted(rows, key=lambda row: min(row[1], row[2])))


def count(masks: Bitmaps) -> NDArray[np.int64]:
    """Number of mask pixels, int64 (M,)."""
    flat = np.ascontiguousarray(masks).reshape(len(masks), -1)
    return np.bitwise_count(flat).sum(axis=1, dtype=np.int64)


def _towards_end(bits: Bitmaps, step: int) -> Bitmaps:
    """Every pixel moved to x + step, 0 < step < 64; the last of a row go on in the next row."""
    flat = bits.reshape(len(bits), -1)
    moved = flat << np.uint64(step)
    moved[:, 1:] |= flat[:, :-1] >> np.uint64(_WORD - step)
    return moved.reshape(bits.shape)


def _towards_start(bits: Bitmaps, step: int) -> Bitmaps:
    """Every pixel moved to x - step, 0 < step < 64; the first of a row go to the row before."""
    flat = bits.reshape(len(bits), -1)
    moved = flat >> np.uint64(step)
    moved[:, :-1] |= flat[:, 1:] << np.uint64(_WORD - step)
    return moved.reshape(bits.shape)
