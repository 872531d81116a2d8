"""COCO's run-length encoding of masks, as in pycocotools, which the tests compare it with.

A mask is read column by column; counts are the lengths of runs of 0, 1, 0, 1 ... The compressed
string holds each count from the fourth on as the difference to the count two before it, in groups
of five bits, lowest first: bit 5 says that more follow, bit 4 of the last is the sign, and 48 is
added to make it text.

Our own because pycocotools fills the rest with arbitrary memory where counts are too short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size, is_whole
from tempomask.limits import check_limit

_MORE, _SIGN, _FIVE, _TEXT = 0x20, 0x10, 0x1F, 48
# Groups of a count: more than 35 bits no mask needs, and 64 would overflow.
_LONGEST = 7


class RLE(TypedDict):
    """A mask in run-length encoding: size [H, W]; counts compressed (a string) or as a list."""

    size: list[int]
    counts: str | list[int]


def encode_rle(mask: NDArray[Any]) -> RLE:
    """The compressed encoding of one mask, fit for JSON.

    Args:
        mask: (H, W), non-zero on the object.

    Raises:
        InputError: For other shapes.

    Example:
        >>> encode_rle(np.eye(2, dtype=bool))
        {'size': [2, 2], 'counts': '0120'}
    """
    mask = np.asarray(mask)
    if mask.ndim != 2 or not mask.size:
        raise InputError(f"run-length encoding takes one mask (H, W), got shape {mask.shape}")
    mask = mask.astype(bool, copy=False)
    height, width = mask.shape
    # Changes down the columns, and from the foot of a column to the head of the next: found row by
    # row, as the mask lies in memory, which is several times faster than turning it first.
    row, column = np.divmod(np.flatnonzero(mask[1:] != mask[:-1]), width)
    wraps = np.flatnonzero(mask[-1, :-1] != mask[0, 1:]) + 1
    changes = np.concatenate((column * height + row + 1, wraps * height))
    changes.sort()
    edges = np.concatenate(([0, 0] if mask[0, 0] else [0], changes, [mask.size]))
    counts = _compress(np.diff(edges))
    return RLE(size=[int(mask.shape[0]), int(mask.shape[1])], counts=counts)


def decode_rle(rle: RLE) -> NDArray[np.bool_]:
    """The mask bool (H, W) of an encoding, compressed or not; InputError as in `run_lengths`."""
    counts = run_lengths(rle)
    height, width = rle["size"]
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T


def decode_masks(encodings: Sequence[RLE], size: Size) -> NDArray[np.bool_]:
    """The masks bool (N, H, W) of N encodings of one size; InputError as in `run_lengths`."""
    masks = np.zeros((len(encodings), *size), dtype=bool)
    for mask, rle in zip(masks, encodings, strict=True):
        mask[:] = decode_rle(rle)
    return masks


def run_lengths(rle: RLE) -> NDArray[np.int64]:
    """The lengths of the runs of 0, 1, 0, 1 ... down the columns, of an encoding of either kind.

    Raises:
        InputError: For anything else, and for counts that do not add up to H x W.
    """
    try:
        height, width = rle["size"]
        counts: Any = rle["counts"]
        counts = _expand(counts) if isinstance(counts, (str, bytes)) else np.array(counts)
        whole = is_whole(height) and is_whole(width) and counts.dtype.kind in "iu"
        if counts.ndim != 1 or not whole:
            raise ValueError("size and counts are not lists of whole numbers")
    except (KeyError, TypeError, ValueError, IndexError, OverflowError) as error:
        raise InputError(f"not a COCO run-length encoding: {error}; need size, counts") from None
    height, width = int(height), int(width)  # NumPy's own would wrap around
    check_limit("pixels", height * width, "a run-length encoding")
    # Each is held against H x W first, as a sum of large ones could wrap around to it.
    fit = min(height, width) > 0 and ((counts >= 0) & (counts <= height * width)).all()
    if not fit or counts.sum() != height * width:
        raise InputError(
            f"a run-length encoding of size [{height}, {width}] whose counts add up to"
            f" {counts.sum()}, not to {height * width}; the file is damaged, or its size is wrong"
        )
    return counts.astype(np.int64, copy=False)


def _compress(counts: NDArray[np.int64]) -> str:
    rest = counts.astype(np.int64)
    rest[3:] -= counts[1:-2]
    groups, used = [], []
    active = np.ones(len(rest), dtype=bool)
    while active.any():
        group = rest & _FIVE
        rest = rest >> 5
        more = active & np.where(group & _SIGN, rest != -1, rest != 0)
        groups.append(group + _TEXT + more * _MORE)
        used.append(active)
        active = more
    return np.stack(groups, 1)[np.stack(used, 1)].astype(np.uint8).tobytes().decode("ascii")


def _expand(text: str | bytes) -> NDArray[np.int64]:
    data = text.encode("ascii") if isinstance(text, str) else text
    groups = np.frombuffer(data, np.uint8).astype(np.int64) - _TEXT
    last = np.flatnonzero(~groups & _MORE)
    if not len(groups) or groups.min() < 0 or groups.max() > 63 or last[-1] != len(groups) - 1:
        raise ValueError("counts hold other characters, or end early")
    first = np.concatenate(([0], last[:-1] + 1))
    if (last - first).max() >= _LONGEST:
        raise ValueError("counts are too large")
    place = 5 * (np.arange(len(groups)) - np.repeat(first, last - first + 1))
    counts = np.add.reduceat((groups & _FIVE) << place, first)
    counts -= np.where(groups[last] & _SIGN, np.int64(1) << (place[last] + 5), 0)
    # Differences to the count two before, from the fourth on: two interleaved sums.
    counts[1::2] = counts[1::2].cumsum()
    counts[2::2] = counts[2::2].cumsum()
    return counts
