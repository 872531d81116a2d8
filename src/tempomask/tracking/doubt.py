"""Prompts whose mask is probably not what was meant: said at once, in a warning with the remedy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tempomask.errors import warn
from tempomask.frames import Size
from tempomask.models.segmenter import Decoded
from tempomask.prompts import Prompt
from tempomask.tracking.state import Output

# Below this IoU of the two best candidates, or this predicted IoU, a click is in doubt; so is one
# whose mask covers more than this share of the image.
LEAST_AGREEMENT, LEAST_IOU, MOST_COVERED = 0.6, 0.6, 0.5


def agreement(decoded: Decoded, row: int) -> Tensor | None:
    """IoU of an object's mask with the best of its other candidates; None without any."""
    if decoded.all_logits.shape[1] < 2:
        return None
    masks, chosen = decoded.all_logits[row] > 0, decoded.logits[row] > 0
    common, union = (masks & chosen).sum((1, 2)), (masks | chosen).sum((1, 2))
    # The mask itself is among the candidates; the next best is the other of the first two.
    best = decoded.all_iou[row].topk(2).indices
    return (common / union.clamp(min=1))[best].min()


def warn_of_vanished(prompt: Prompt, left: bool, size: Size) -> None:
    """Warn of a mask of which nothing is left where the network sees it.

    Args:
        prompt: A mask prompt.
        left: Whether anything is left of it.
        size: (height, width) at which the network sees masks.
    """
    if left or prompt.mask is None or not (pixels := np.count_nonzero(prompt.mask)):
        return
    height, width = np.shape(prompt.mask)
    warn(
        f"the mask of object {prompt.object_id} on frame {prompt.frame} is too small: of its"
        f" {pixels} pixels in {width} x {height} nothing is left at the network's"
        f" {size[1]} x {size[0]}; track a cut-out around it, or take a larger image size"
    )


def warn_of_doubt(prompts: Sequence[Prompt], outputs: Sequence[Output]) -> None:
    """Warn of masks that vanish at the network's resolution, and of clicks of many meanings."""
    for prompt, output in zip(prompts, outputs, strict=True):
        shown = output.shown > 0
        if prompt.mask is not None:
            height, width = shown.shape[-2:]
            warn_of_vanished(prompt, bool(shown.any()), (height, width))
        elif output.agreement is not None:
            covered = float(shown.float().mean())
            doubt = (output.agreement < LEAST_AGREEMENT) | (output.predicted_iou < LEAST_IOU)
            if bool(doubt) or covered > MOST_COVERED:
                warn(
                    f"the click on object {prompt.object_id} on frame {prompt.frame} can mean"
                    f" several things, and its mask covers {covered:.1%} of the image; look at it,"
                    " or give a box"
                )
