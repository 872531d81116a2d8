"""From a video frame to the network's input: resize to a square, normalise.

SAM 2 resizes video frames with PIL's bicubic filter; transformers' video processor bilinearly.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import checked_frame
from tempomask.ops.normalise import normalise
from tempomask.ops.transfer import to_device
from tempomask.tracking.options import Resize


def check_frame(frame: Any) -> NDArray[np.uint8]:
    """The frame as an array; InputError unless it is H x W x 3 uint8."""
    return checked_frame(frame)


def resize_frame(frame: NDArray[np.uint8], image_size: int, kind: Resize) -> NDArray[np.uint8]:
    """Resize (H, W, 3) to (image_size, image_size, 3), ignoring the aspect, with antialiasing."""
    if kind == "bicubic":
        from PIL import Image

        side = (image_size, image_size)
        return np.asarray(Image.fromarray(frame).resize(side, Image.Resampling.BICUBIC))
    pixels = torch.from_numpy(np.ascontiguousarray(frame)).permute(2, 0, 1)[None]
    size = (image_size, image_size)
    resized = F.interpolate(pixels, size=size, mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()


def network_input(image: NDArray[np.uint8], device: torch.device) -> Tensor:
    """(S, S, 3) uint8 to the normalised (1, 3, S, S) float32 that the encoder takes."""
    return normalise(to_device(np.array(image), device)[None])
