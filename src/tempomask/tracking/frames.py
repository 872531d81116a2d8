"""The frames of a session that are still of use: images that can be corrected, features in use.

S image side, C hidden_dim, h x w the stride-16 grid, L encoder blocks.
"""

from __future__ import annotations

import copy
from collections.abc import Collection
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tempomask.errors import InputError
from tempomask.frames import Size
from tempomask.models.encoder import Policy
from tempomask.models.segmenter import Encoded, Segmenter
from tempomask.ops.normalise import normalise
from tempomask.tracking.options import Resize
from tempomask.tracking.preprocess import check_frame, network_input, resize_frame
from tempomask.tracking.upload import Arrival, PreparedFrame, pinned_ring

AnyFrame = NDArray[np.uint8] | PreparedFrame


def size_of(frame: AnyFrame) -> Size:
    """(H, W) of a checked frame."""
    if isinstance(frame, PreparedFrame):
        return frame.size
    return frame.shape[0], frame.shape[1]


class FrameStore:
    """Pixels by frame, the encoder's output for one of them, and features that memories need.

    size: (H, W) of the video, None until it is known.
    """

    def __init__(
        self, segmenter: Segmenter, resize: Resize, policy: Policy | None, memory_dtype: torch.dtype
    ) -> None:
        self.segmenter = segmenter
        self.resize: Resize = resize
        self.policy = policy
        self.memory_dtype = memory_dtype
        self._ring = pinned_ring(segmenter.no_memory.device)
        self.size: Size | None = None
        self.clear()

    def clear(self) -> None:
        """Forget every frame, and the size of the video."""
        self.size = None
        self._pixels: dict[int, NDArray[np.uint8]] = {}
        # The newest pixels, on its way to the device.
        self._arriving: tuple[int, Arrival] | None = None
        self._blocks: dict[int, NDArray[np.bool_]] = {}
        self._encoded: tuple[int, Encoded] | None = None
        # Raw features (C, h, w), only for networks whose memory keys see them.
        self.images: dict[int, Tensor] = {}

    def copy(self) -> Self:
        """A copy with dictionaries of its own, of the same frames."""
        other = copy.copy(self)
        other._pixels, other._blocks = dict(self._pixels), dict(self._blocks)
        other.images = dict(self.images)
        return other

    def __contains__(self, index: int) -> bool:
        return index in self._pixels

    def check(self, frame: Any) -> AnyFrame:
        """The frame as an array; InputError if it is none, or of another size than those before."""
        if not isinstance(frame, PreparedFrame):
            frame = check_frame(frame)
        elif frame.pixels.shape[0] != (side := self.segmenter.config.image_size):
            raise InputError(
                f"a frame prepared for a network of {frame.pixels.shape[0]} pixels, and this one"
                f" takes {side}; prepare it by the session that steps it"
            )
        size = size_of(frame)
        if self.size is not None and size != self.size:
            raise InputError(
                f"a frame of {size[1]} x {size[0]} pixels in a video of {self.size[1]} x"
                f" {self.size[0]}; the size may not change, start a new session"
            )
        return frame

    @property
    def sends_ahead(self) -> bool:
        """Whether frames gain by being prepared before their turn."""
        return self._ring is not None

    def prepare(self, frame: Any) -> PreparedFrame:
        """Resize a frame and send it to the device; by one thread at a time, which may be any."""
        frame = check_frame(frame)
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
        """The encoder's output for a stored frame; previous_masks as in `models.encoder.Policy`."""
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
        return network_input(pixels, self.segmenter.no_memory.device)

    def blocks(self, index: int | None) -> NDArray[np.bool_]:
        """bool (L,): the encoder blocks that ran for a frame; all False if it was not encoded."""
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
