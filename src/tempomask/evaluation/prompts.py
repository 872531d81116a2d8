"""Prompts made from a true mask, as the semi-supervised protocols do: mask, box, or clicks.

Clicks go to the middle of the largest error: the maximum of the distance transform.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from tempomask.errors import InputError
from tempomask.prompts import Prompt
from tempomask.results import FrameResult, mask_boxes
from tempomask.tracking.session import Session

PromptKind = Literal["mask", "box", "click", "3clicks", "5clicks"]
CLICKS = {"click": 1, "3clicks": 3, "5clicks": 5}
Mask = NDArray[np.bool_]


def check_kind(kind: str) -> None:
    """InputError unless it is a PromptKind."""
    if kind not in get_args(PromptKind):
        raise InputError(f"unknown prompt {kind!r}; use one of {', '.join(get_args(PromptKind))}")


def error_click(truth: Mask, prediction: Mask) -> tuple[tuple[int, int], int] | None:
    """The next click (x, y) and its label (1 missed, 0 false); None if the prediction is right.

    The deepest point of the missed or of the false region, whichever is deeper (the false one if
    both are); the border of the image counts as outside. As SAM 2's evaluation clicks.
    """
    depths = [_depth(region) for region in (truth & ~prediction, prediction & ~truth)]
    missed, false = (float(depth.max()) for depth in depths)
    if missed == 0 and false == 0:
        return None
    label = int(missed > false)
    depth = depths[0] if label else depths[1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return (int(x), int(y)), label


def _depth(region: Mask) -> NDArray[np.float64]:
    """Distance (H, W) of each pixel of a region to its outside."""
    return np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]


def prompt_of(mask: Mask, object_id: int, kind: PromptKind, frame: int) -> Prompt:
    """The prompt for an object of which the mask (H, W) is shown; for several clicks, the first."""
    if kind == "mask":
        return Prompt(frame, object_id, mask=mask)
    if kind == "box":
        return Prompt(frame, object_id, box=mask_boxes(mask[None])[0])
    click = error_click(mask, np.zeros_like(mask))
    if click is None:
        raise InputError(f"object {object_id} has no pixel to click on frame {frame}")
    return Prompt(frame, object_id, points=[click[0]], labels=[click[1]])


def first_frame_prompts(
    labels: NDArray[np.integer], object_ids: tuple[int, ...], kind: PromptKind, frame: int
) -> list[Prompt]:
    """One prompt for each object of a label map (H, W); see `prompt_of`."""
    return [prompt_of(labels == i, i, kind, frame) for i in object_ids]


def add_error_clicks(
    session: Session, result: FrameResult, truths: Mapping[int, Mask], count: int
) -> FrameResult:
    """Correct the frame last stepped by `count` more clicks an object, each on the error so far.

    result: of that frame. truths: true masks (H, W) of the objects to correct. An object that is
    right gets no more clicks. Returns the frame's new result.
    """
    for object_id, truth in truths.items():
        for _ in range(count):
            prediction = result.masks[result.object_ids.index(object_id)]
            click = error_click(truth, prediction)
            if click is None:
                break
            result = session.correct(object_id=object_id, points=[click[0]], labels=[click[1]])
    return result
