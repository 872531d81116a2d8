"""Binary masks with 64 pixels to a word: boundaries, disk dilation and counting at word speed.

M masks of H x W pixels are an array uint64 (M, H, words); pixel x of a row is bit x % 64 of its
word x // 64. Every row ends with padding bits, which are 0.
"""

from __future__ import annotations

from math import isqrt

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


def dilate(masks: Bitmaps, radius: int) -> Bitmaps:
    """Every pixel at a Euclidean distance of at most `radius` from a mask pixel of its image.

    The masks need `radius` padding bits: what spills over the side of a row lands there.
    """
    height = masks.shape[1]
    grown = np.zeros_like(masks)
    # Row y + dy of the disk reaches isqrt(radius^2 - dy^2) to both sides; from its tip to its
    # middle the reach only grows, so that each spread is made from the one before.
    spread, reach = masks, 0
    for dy in range(radius, -1, -1):
        wanted = isqrt(radius * radius - dy * dy)
        while reach < wanted:
            # Three copies of a run of 2 reach + 1 bits join without a gap up to this step.
            step = min(wanted - reach, 2 * reach + 1, _WORD - 1)
            spread = _towards_start(spread, step) | spread | _towards_end(spread, step)
            reach += step
        if dy < height:
            grown[:, dy:] |= spread[:, : height - dy]
            grown[:, : height - dy] |= spread[:, dy:]
    return grown


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
