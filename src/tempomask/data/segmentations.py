"""A mask as annotation files write it: compressed or plain run lengths, or nothing."""

from __future__ import annotations

import reprlib
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.rle import RLE, decode_rle


def mask_of(segmentation: Any, size: Size) -> NDArray[np.bool_]:
    """Boolean (H, W) of a segmentation, see `as_rle`; all False for None."""
    rle = as_rle(segmentation, size)
    return np.zeros(size, dtype=bool) if rle is None else decode_rle(rle)


def as_rle(segmentation: Any, size: Size) -> RLE | None:
    """The run-length encoding of a segmentation; None stays None.

    Args:
        segmentation: {size, counts} with counts as text or as a list, which are not looked into; or
            None (also an empty list) where the object is not seen.
        size: (H, W) of the image.

    Raises:
        InputError: It is anything else, or of another size.
    """
    if segmentation is None or segmentation == []:
        return None
    if not isinstance(segmentation, dict) or not {"size", "counts"} <= segmentation.keys():
        got = reprlib.repr(segmentation)
        raise InputError(
            f"a segmentation must be null or {{size, counts}}, got {got}; turn polygons into run"
            " lengths first, as with pycocotools"
        )
    found, counts = segmentation["size"], segmentation["counts"]
    if not isinstance(counts, (str, bytes, list)):
        raise InputError(f"counts of a run-length encoding are {counts!r}, not text or a list")
    if not isinstance(found, (list, tuple)) or tuple(found) != tuple(size):
        raise InputError(
            f"a mask of [H, W] = {reprlib.repr(found)} in an image of [H, W] = {list(size)};"
            " masks must have the image's size"
        )
    return cast(RLE, segmentation)
