"""What sessions of tracking, instance segmentation and label propagation have in common."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.frames import Size, checked_frame


class VideoSession:
    """One video or stream, advanced frame by frame; a subclass implements `step`.

    As a context manager it forgets the video at the end.

    Args:
        start: Index of the first frame.
        reverse: Frames come in descending order.
        size: (H, W) of the video, None until it is known.
        dtype: Of the computation, by autocast.
    """

    def __init__(
        self,
        *,
        start: int = 0,
        reverse: bool = False,
        size: Size | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.start, self.dtype = start, dtype
        self._reverse, self._size = reverse, size
        self._index: int | None = None

    @property
    def index(self) -> int | None:
        """The frame last stepped, None before the first."""
        return self._index

    @property
    def next_index(self) -> int:
        """The frame that `step` takes its argument for."""
        return self.start if self._index is None else self._index + (-1 if self._reverse else 1)

    @property
    def size(self) -> Size | None:
        """(H, W) of the video, None until it is known."""
        return self._size

    def reset(self) -> None:
        """Forget the video, its frame numbers and its size."""
        self._index = self._size = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.reset()

    def _checked(self, frame: Any) -> NDArray[np.uint8]:
        """A frame as an array; InputError unless it is one, of the size of those before."""
        array = checked_frame(frame)
        self._check_size((array.shape[0], array.shape[1]))
        return array

    def _check_size(self, size: Size) -> None:
        if self._size is not None and size != self._size:
            raise InputError(
                f"a frame of {size[1]} x {size[0]} pixels in a video of {self._size[1]} x"
                f" {self._size[0]}; the size may not change, start a new session"
            )

    @contextmanager
    def _computing(self, device: torch.device) -> Iterator[None]:
        """Without gradients, in the session's number type."""
        casting: AbstractContextManager[Any] = nullcontext()
        if torch.amp.is_autocast_available(device.type):
            reduced = self.dtype != torch.float32
            casting = torch.autocast(device.type, self.dtype, enabled=reduced)
        with torch.inference_mode(), casting:
            yield
