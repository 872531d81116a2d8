"""Overlap of tracks through a video: intersection over union, both summed over its frames.

T frames, D predicted tracks, G true ones; every track is T run-length encodings, None where it is
not seen (Yang et al. 2019, "Video Instance Segmentation", section 3). Masks are compared as runs,
without being decoded: what two have in common is how much of one lies before the end of each run of
the other, less what lies before its start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tempomask.errors import InputError
from tempomask.rle import RLE, decode_rle, encode_rle, run_lengths

Tube = Sequence[RLE | None]
Floats = NDArray[np.float64]
# How far a boundary reaches inwards, as a share of the image's diagonal.
BOUNDARY = 0.02


class Runs(NamedTuple):
    """A mask as runs of pixels down its columns; all numbers are whole.

    edges: of all runs, ascending. covered: how many pixels of the mask lie before each edge.
    starts, ends: of the runs of the mask itself.
    """

    edges: Floats
    covered: Floats
    starts: Floats
    ends: Floats


def _runs_of(rle: RLE) -> Runs:
    counts = run_lengths(rle)
    edges, covered = np.zeros((2, len(counts) + 1))
    edges[1:] = counts.cumsum()
    covered[1:] = (counts * (np.arange(len(counts)) % 2)).cumsum()
    ends = edges[2::2]
    return Runs(edges, covered, edges[1::2][: len(ends)], ends)


def tube_areas(tube: Tube) -> NDArray[np.int64]:
    """(T,) pixels of a track on each frame, 0 where it is not seen."""
    return np.array([0 if rle is None else run_lengths(rle)[1::2].sum() for rle in tube], np.int64)


def boundary_tube(tube: Tube) -> Tube:
    """The boundaries of a track's masks, as the boundary AP of HQ-YTVIS compares them.

    A mask less what is left of it after 3 x 3 erosions, as many as 2% of the image's diagonal has
    pixels; the edge of the image counts as outside (Cheng et al. 2021, "Boundary IoU").
    """
    return [None if rle is None else encode_rle(_boundary(decode_rle(rle))) for rle in tube]


def _boundary(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        return mask
    reach = max(1, round(BOUNDARY * float(np.hypot(*mask.shape))))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    # As many erosions remove what is as near to the outside, by steps to any of 8 neighbours.
    steps = np.asarray(ndimage.distance_transform_cdt(np.pad(mask[box], 1), "chessboard"))
    edge = np.zeros_like(mask)
    edge[box] = mask[box] & (steps[1:-1, 1:-1] <= reach)
    return edge


def tube_overlaps(predicted: Sequence[Tube], truth: Sequence[Tube]) -> Floats:
    """(D, G) intersection over union; 0 where both tracks are never seen.

    Raises:
        InputError: Tracks have different numbers of frames, or masks are damaged or of different
            sizes.
    """
    tubes = (*predicted, *truth)
    lengths = sorted({len(tube) for tube in tubes})
    if len(lengths) > 1:
        raise InputError(
            f"tracks of {lengths[0]} and of {lengths[-1]} frames in one video; give one mask or"
            " None for each frame"
        )
    sizes = sorted({tuple(rle["size"]) for tube in tubes for rle in tube if rle is not None})
    if len(sizes) > 1:
        raise InputError(
            f"masks of {sizes[0][1]} x {sizes[0][0]} and of {sizes[-1][1]} x {sizes[-1][0]} pixels"
            " in one video; all must have the video's size"
        )
    intersection = np.zeros((len(predicted), len(truth)))
    left_areas, right_areas = np.zeros((len(predicted), 1)), np.zeros((1, len(truth)))
    for frame in range(lengths[0] if lengths else 0):
        rows, left = _seen(predicted, frame)
        columns, right = _seen(truth, frame)
        left_areas[rows, 0] += [runs.covered[-1] for runs in left]
        right_areas[0, columns] += [runs.covered[-1] for runs in right]
        if rows and columns:
            intersection[np.ix_(rows, columns)] += _shared_pixels(left, right)
    union = left_areas + right_areas - intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def _seen(tubes: Sequence[Tube], frame: int) -> tuple[list[int], list[Runs]]:
    """The places of the tracks that are seen on a frame, and their masks."""
    masks = [(place, rle) for place, tube in enumerate(tubes) if (rle := tube[frame]) is not None]
    return [place for place, _ in masks], [_runs_of(rle) for _, rle in masks]


def _shared_pixels(left: Sequence[Runs], right: Sequence[Runs]) -> Floats:
    """(D, G) pixels that masks have in common."""
    points = np.concatenate([part for runs in left for part in (runs.ends, runs.starts)])
    signs = np.concatenate([np.repeat((1.0, -1.0), len(runs.ends)) for runs in left])
    owners = np.repeat(np.arange(len(left)), [2 * len(runs.ends) for runs in left])
    shared = np.empty((len(left), len(right)))
    for column, runs in enumerate(right):
        # Edges without repetition, as runs may be empty. Between two of them either every pixel
        # belongs to the mask or none: a straight line.
        last = np.append(np.diff(runs.edges) > 0, True)
        before = np.interp(points, runs.edges[last], runs.covered[last])
        shared[:, column] = np.bincount(owners, weights=signs * before, minlength=len(left))
    # Interpolation may be off by a rounding error, the numbers are whole.
    return np.rint(shared)
