"""What every source of frames offers: video files, folders of images, cameras, arrays."""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tempomask.frames import Size

Frame = NDArray[np.uint8]
IndexedFrames = Generator[tuple[int, Frame], None, None]


class Source(Protocol):
    """A source of RGB frames, uint8 (H, W, 3), numbered from 0.

    name: for messages. size: (H, W). fps: None when the source has no clock.
    num_frames: exact, or None when unknown. seekable: frames can be read in any order, and again.
    live: frames that nobody takes in time are lost. decodes: reading costs time worth a thread.
    """

    @property
    def name(self) -> str: ...
    @property
    def size(self) -> Size: ...
    @property
    def fps(self) -> float | None: ...
    @property
    def num_frames(self) -> int | None: ...
    @property
    def seekable(self) -> bool: ...
    @property
    def live(self) -> bool: ...
    @property
    def decodes(self) -> bool: ...

    def read(self, start: int, end: int | None) -> IndexedFrames:
        """Frames start, start + 1, ... before end (None: to the last)."""
        ...

    def read_reversed(self, start: int | None, end: int) -> IndexedFrames:
        """Frames start (None: the last), start - 1, ... down to and including end.

        Called on seekable sources only.
        """
        ...

    def close(self) -> None: ...
