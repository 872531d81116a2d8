"""Clean-ups of masks: filling holes, and giving each pixel to one object (SAM 2's options)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tempomask.results import OVERLAP_LOGIT

# The logit that a filled hole gets.
FILLED_LOGIT = 0.1


def fill_holes(logits: Tensor, area: int) -> Tensor:
    """Set 8-connected background regions of at most `area` pixels in (N, h, w) logits to +0.1."""
    from scipy import ndimage

    eight_connected = np.ones((3, 3))
    holes = np.zeros(logits.shape, dtype=bool)
    for hole, background in zip(holes, (logits <= 0).cpu().numpy(), strict=True):
        regions = np.zeros(background.shape, dtype=np.int32)
        ndimage.label(background, structure=eight_connected, output=regions)
        hole[:] = background & (np.bincount(regions.ravel()) <= area)[regions]
    return torch.where(torch.from_numpy(holes).to(logits.device), FILLED_LOGIT, logits)


def without_overlap(logits: Tensor) -> Tensor:
    """Keep each pixel of (N, ..., h, w) logits for its strongest object; the others get <= -10."""
    if logits.shape[0] < 2:
        return logits
    strongest = logits.argmax(dim=0, keepdim=True)
    objects = torch.arange(logits.shape[0], device=logits.device)
    mine = strongest == objects.view(-1, *[1] * (logits.ndim - 1))
    return torch.where(mine, logits, logits.clamp(max=OVERLAP_LOGIT))
