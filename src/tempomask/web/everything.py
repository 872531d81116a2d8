"""Everything on one frame, for a page: objects for what none has yet."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from tempomask.frames import Frame
from tempomask.images.options import EverythingOptions
from tempomask.model import Model
from tempomask.prompts import Prompt
from tempomask.rle import RLE, decode_masks
from tempomask.tracking.arrivals import mask_overlaps
from tempomask.web.state import MaskEntry

# A coarser grid than the command line's, as a person waits for it; and no more objects than one
# can look through.
OPTIONS = EverythingOptions(points_per_side=16)
MOST = 30
# IoU from which on a mask is that of an object that is there.
SAME = 0.5


def new_prompts(
    model: Model,
    read: Callable[[int], Frame],
    index: int,
    first_id: int,
    known: Sequence[MaskEntry],
) -> list[Prompt]:
    """Mask prompts of new objects, best first.

    Args:
        model: With all blocks running.
        read: Gives a frame (H, W, 3), uint8 RGB, by its number.
        index: Of the frame.
        first_id: Of the first new object; the others follow.
        known: The masks of objects on it.
    """
    frame = read(index)
    height, width = frame.shape[:2]
    encodings = [RLE(size=[height, width], counts=entry.counts) for entry in known]
    there = list(decode_masks(encodings, (height, width)))
    prompts: list[Prompt] = []
    for mask in model.everything(frame, OPTIONS).masks:
        if len(prompts) < MOST and not (mask_overlaps(mask, np.array(there)) >= SAME).any():
            there.append(mask)
            prompts.append(Prompt(index, first_id + len(prompts), mask=mask))
    return prompts
