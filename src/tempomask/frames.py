"""Frames as they come in: RGB, uint8 (H, W, 3), checked once at the boundary; and their sources."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError

# (height, width) in pixels.
Size = tuple[int, int]
Frame = NDArray[np.uint8]
# Pairs of a frame's index and the frame.
IndexedFrames = Iterator[tuple[int, Frame]]


@runtime_checkable
class FrameSource(Protocol):
    """What tracking needs of a video; `tempomask.io.video.Video` is one.

    Attributes:
        size: (H, W) in pixels.
        num_frames: None when unknown.
        seekable: Whether frames can be read in any order, and again.
    """

    @property
    def size(self) -> Size: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def seekable(self) -> bool: ...

    def frames(self, start: int = 0, end: int | None = None) -> IndexedFrames:
        """Frames start, start + 1, ... before end (None: to the last)."""
        ...

    def reversed_frames(self, start: int, end: int = 0) -> IndexedFrames:
        """Frames start, start - 1, ... down to and including end."""
        ...


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number, of Python or NumPy; True and False are not."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def checked_frame(frame: Any, name: str = "the frame") -> Frame:
    """A frame as an array.

    Args:
        frame: What somebody gave.
        name: Of the frame, for messages.

    Raises:
        InputError: With a remedy, unless it is RGB, uint8 (H, W, 3).
    """
    try:
        array = np.asarray(frame)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(
            f"{name} is {type(frame).__name__}, not an array ({error}); give NumPy arrays of shape"
            " (H, W, 3), uint8"
        ) from None
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise InputError(
            f"{name} has shape {array.shape} and type {array.dtype}; give (H, W, 3) uint8 in"
            f" RGB{_remedy(array)}"
        )
    return array


def _remedy(array: NDArray[Any]) -> str:
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[2] != 3:
        return ": move the channels last"
    if array.ndim == 3 and array.shape[2] == 4:
        return ": drop the fourth channel"
    if array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1):
        return ": repeat the grey values three times"
    if array.dtype.kind == "f":
        return ": scale to 0..255 and convert"
    return ": convert with astype(np.uint8)" if array.dtype.kind in "iu" and array.size else ""
