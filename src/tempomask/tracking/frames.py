"""The frames of a session: resized and normalised, encoded, and kept while they are of use.

SAM 2 resizes video frames with PIL's bicubic filter; transformers' video processor bilinearly.
S image side, C hidden_dim, h x w the stride-16 grid, L encoder blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from tempomask.frames import Size, checked_frame
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Encoded, Segmenter
from tempomask.ops.normalise import normalise
from tempomask.ops.resumable import Resumable, agree
from tempomask.ops.transfer import to_device
from tempomask.tracking.options import Resize
from tempomask.tracking.upload import Arrival, PreparedFrame, pinned_ring

AnyFrame = NDArray[np.uint8] | PreparedFrame


def size_of(frame: AnyFrame) -> Size:
    """(H, W) of a checked frame."""
    if isinstance(frame, PreparedFrame):
        return frame.size
    return frame.shape[0], frame.shape[1]


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


class FrameStore(Resumable):
    """Pixels by frame, the encoder's output for one of them, and features that memories need.

    Args:
        segmenter: The network.
        resize: How frames come to the network's size.
        policy: Which encoder blocks run.
        memory_dtype: In which features that memories need are kept.
    """

    state_types: ClassVar = {
        "size": tuple[int, int] | None,
        "policy": Resumable | None,
        "_blocks": dict[int, NDArray[np.bool_]],
        "images": dict[int, Tensor],
    }

    def __init__(
        self, segmenter: Segmenter, resize: Resize, policy: Policy | None, memory_dtype: torch.dtype
    ) -> None:
        self.segmenter = segmenter
        self.resize: Resize = resize
        self.policy = policy
        self.memory_dtype = memory_dtype
        self._ring = pinned_ring(segmenter.device)
        # (H, W) of the frames, None before the first.
        self.size: Size | None = None
        self._pixels: dict[int, NDArray[np.uint8]] = {}
        # The newest pixels, on their way to the device.
        self._arriving: tuple[int, Arrival] | None = None
        self._blocks: dict[int, NDArray[np.bool_]] = {}
        self._encoded: tuple[int, Encoded] | None = None
        # Raw features (C, h, w), only for networks whose memory keys see them.
        self.images: dict[int, Tensor] = {}

    def check_state(self) -> None:
        shape = (self.segmenter.encoder.num_blocks,)
        agree(all(row.shape == shape for row in self._blocks.values()), "a record of blocks")

    def copy(self) -> Self:
        """A copy with dictionaries of its own, of the same frames."""
        other = copy.copy(self)
        other._pixels, other._blocks = dict(self._pixels), dict(self._blocks)
        other.images = dict(self.images)
        return other

    def __contains__(self, index: int) -> bool:
        return index in self._pixels

    @property
    def sends_ahead(self) -> bool:
        """Whether frames gain by being prepared before their turn."""
        return self._ring is not None

    def prepare(self, frame: Any) -> PreparedFrame:
        """Resize a frame and send it to the device; by one thread at a time, which may be any."""
        frame = checked_frame(frame)
        side = self.segmenter.config.image_size
        fits = frame.shape[:2] == (side, side)
        pixels = np.array(frame) if fits else resize_frame(frame, side, self.resize)
        arrival = None if self._ring is None else self._ring.send(pixels)
        return PreparedFrame(pixels, (frame.shape[0], frame.shape[1]), arrival)

    def put(self, index: int, frame: AnyFrame) -> None:
        """Take in a checked frame. It is copied, and resized only when it is encoded."""
        self.size, self._arriving = size_of(frame), None
        if isinstance(frame, PreparedFrame):
            self._pixels[index] = frame.pixels
            if frame.arrival is not None:
                self._arriving = index, frame.arrival
        else:
            self._pixels[index] = np.array(frame)
        if self._encoded is not None and self._encoded[0] == index:
            self._encoded = None

    def encoded(self, index: int, previous_masks: Tensor | None = None) -> Encoded:
        """The encoder's output for a stored frame; previous_masks as in `Policy.plan`."""
        if self._encoded is not None and self._encoded[0] == index:
            return self._encoded[1]
        encoded = self.segmenter.encode(self._image(index), self.policy, previous_masks)
        self._encoded = (index, encoded)
        self._blocks[index] = encoded.blocks.reshape(-1).cpu().numpy()
        if self.segmenter.config.memory_attention.image_keys:
            self.images[index] = encoded.features[0].to(self.memory_dtype)
        return encoded

    def _image(self, index: int) -> Tensor:
        """The network's input (1, 3, S, S) of a stored frame."""
        if self._arriving is not None and self._arriving[0] == index:
            arrival, self._arriving = self._arriving[1], None
            return normalise(arrival.take()[None])
        side = self.segmenter.config.image_size
        pixels = self._pixels[index]
        if pixels.shape[:2] != (side, side):
            pixels = self._pixels[index] = resize_frame(pixels, side, self.resize)
        return network_input(pixels, self.segmenter.device)

    def blocks(self, index: int | None) -> NDArray[np.bool_]:
        """The encoder blocks that ran for a frame, bool (L,); all False if it was not encoded."""
        if index in self._blocks:
            return self._blocks[index]
        return np.zeros(self.segmenter.encoder.num_blocks, dtype=bool)

    def retain(
        self, pixels: Collection[int], blocks: Collection[int], images: Collection[int]
    ) -> None:
        """Drop the pixels, block records and image features of all other frames."""
        self.retain_frames(pixels)
        self._blocks = {t: record for t, record in self._blocks.items() if t in blocks}
        self.images = {t: image for t, image in self.images.items() if t in images}

    def retain_frames(self, frames: Collection[int | None]) -> None:
        """Drop the pixels of all other frames."""
        self._pixels = {t: pixels for t, pixels in self._pixels.items() if t in frames}
