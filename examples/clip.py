"""The bundled clip, its exact masks, and how well two masks agree."""

from __future__ import annotations

from importlib.resources import files

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]

CLIP = files("tempomask") / "assets" / "clip"
VIDEO = str(CLIP / "clip.mp4")
# On and around the saucer, in the first frame.
CLICK, BOX = (104, 92), (53, 42, 158, 139)


def exact_masks() -> Mask:
    """bool (T, H, W): of the saucer, drawn with the clip."""
    with np.load(str(CLIP / "masks.npz")) as stored:
        shape = stored["shape"]
        return np.unpackbits(stored["packed"], axis=-1, count=shape[-1]).reshape(shape).astype(bool)


def iou(one: Mask, other: Mask) -> float:
    """Of two masks (H, W); 1 where both are empty."""
    union = (one | other).sum()
    return float((one & other).sum() / union) if union else 1.0
