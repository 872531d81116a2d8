"""Overlap of tracks through a video: intersection over union, both summed over its frames.

T frames, D predicted tracks, G true ones; every track is T run-length encodings, None where it is
not seen (Yang et al. 2019, "Video Instance Segmentation", section 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.media.rle import RLE, decode_rle

Tube = Sequence[RLE | None]


def tube_areas(tube: Tube) -> NDArray[np.int64]:
    """(T,) pixels of a track on each frame, 0 where it is not seen."""
    return np.array([0 if rle is None else _area(rle) for rle in tube], dtype=np.int64)


def tube_overlaps(
    predicted: Sequence[Tube], truth: Sequence[Tube], compiled: bool | None = None
) -> NDArray[np.float64]:
    """(D, G) intersection over union; 0 where both tracks are never seen.

    compiled: count with pycocotools, the same numbers several times faster; None where it is there.

    Raises InputError for tracks of different numbers of frames or masks of different sizes.
    """
    lengths = sorted({len(tube) for tube in (*predicted, *truth)})
    if len(lengths) > 1:
        raise InputError(
            f"tracks of {lengths[0]} and of {lengths[-1]} frames in one video; give one mask or"
            " None for each frame"
        )
    _check_sizes([*predicted, *truth])
    coco_mask = _coco_mask() if compiled is not False else None
    intersection = np.zeros((len(predicted), len(truth)))
    for frame in range(lengths[0] if lengths else 0):
        rows, left = _seen(predicted, frame)
        columns, right = _seen(truth, frame)
        if rows and columns:
            if coco_mask is None:
                shared = _shared_pixels(left, right)
            else:
                shared = _shared_pixels_compiled(coco_mask, left, right)
            intersection[np.ix_(rows, columns)] += shared
    total = (
        np.array([tube_areas(tube).sum() for tube in predicted], dtype=float).reshape(-1, 1)
        + np.array([tube_areas(tube).sum() for tube in truth], dtype=float)[None]
    )
    union = total - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _seen(tubes: Sequence[Tube], frame: int) -> tuple[list[int], list[RLE]]:
    """The places of the tracks that are seen on a frame, and their masks."""
    masks = [(place, rle) for place, tube in enumerate(tubes) if (rle := tube[frame]) is not None]
    return [place for place, _ in masks], [rle for _, rle in masks]


def _shared_pixels(left: Sequence[RLE], right: Sequence[RLE]) -> NDArray[np.float64]:
    """(D, G) pixels that masks have in common."""
    # As floats the sums go through the fast matrix product; they are exact up to 2^53.
    first, second = (
        np.stack([decode_rle(rle).ravel() for rle in masks]).astype(np.float64)
        for masks in (left, right)
    )
    return first @ second.T


def _shared_pixels_compiled(
    coco_mask: Any, left: Sequence[RLE], right: Sequence[RLE]
) -> NDArray[np.float64]:
    first, second = (_compressed(coco_mask, masks) for masks in (left, right))
    iou = np.asarray(coco_mask.iou(first, second, [0] * len(second)), dtype=float)
    total = coco_mask.area(first)[:, None].astype(float) + coco_mask.area(second)[None]
    # It gives the ratio alone: i / (total - i) = iou. Rounding brings back the whole number.
    return np.rint(iou * total / (1 + iou)).reshape(len(left), len(right))


def _compressed(coco_mask: Any, masks: Sequence[RLE]) -> list[Any]:
    """As pycocotools takes them: counts as compressed text."""
    return [
        coco_mask.frPyObjects(dict(rle), *rle["size"]) if isinstance(rle["counts"], list) else rle
        for rle in masks
    ]


def _area(rle: RLE) -> int:
    coco_mask = _coco_mask()
    if coco_mask is None:
        return int(decode_rle(rle).sum())
    return int(coco_mask.area(_compressed(coco_mask, [rle]))[0])


def _check_sizes(tubes: Sequence[Tube]) -> None:
    sizes = sorted({tuple(rle["size"]) for tube in tubes for rle in tube if rle is not None})
    if len(sizes) > 1:
        raise InputError(
            f"masks of {sizes[0][1]} x {sizes[0][0]} and of {sizes[-1][1]} x {sizes[-1][0]} pixels"
            " in one video; all must have the video's size"
        )


def _coco_mask() -> Any:
    try:
        from pycocotools import mask
    except ImportError:
        return None
    return mask
