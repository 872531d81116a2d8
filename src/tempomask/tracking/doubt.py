"""Prompts whose mask is probably not what was meant: said at once, in a warning with the remedy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from tempomask.errors import warn
from tempomask.models.segmenter import Decoded
from tempomask.prompts import Prompt
from tempomask.tracking.state import Output

# Below this IoU of the two best candidates, or this predicted IoU, a click is in doubt.
LEAST_AGREEMENT, LEAST_IOU = 0.6, 0.6


def agreement(decoded: Decoded, row: int) -> Tensor | None:
    """IoU of an object's mask with the best of its other candidates; None without any."""
    if decoded.all_logits.shape[1] < 2:
        return None
    masks, chosen = decoded.all_logits[row] > 0, decoded.logits[row] > 0
    common, union = (masks & chosen).sum((1, 2)), (masks | chosen).sum((1, 2))
    # The mask itself is among the candidates; the next best is the other of the first two.
    best = decoded.all_iou[row].topk(2).indices
    return (common / union.clamp(min=1))[best].min()


def warn_of_doubt(prompts: Sequence[Prompt], outputs: Sequence[Output]) -> None:
    """Warn of masks that vanish at the network's resolution, and of clicks of many meanings."""
    for prompt, output in zip(prompts, outputs, strict=True):
        where = f"object {prompt.object_id} on frame {prompt.frame}"
        shown = output.shown > 0
        if prompt.mask is not None:
            if not bool(shown.any()):
                warn(
                    f"the mask of {where} is too small: nothing is left of it at the network's"
                    " resolution; track a cut-out around it, or take a larger image size"
                )
        elif output.agreement is not None and bool(
            (output.agreement < LEAST_AGREEMENT) | (output.predicted_iou < LEAST_IOU)
        ):
            warn(
                f"the click on {where} can mean several things, and its mask covers"
                f" {float(shown.float().mean()):.1%} of the image; look at it, or give a box"
            )
