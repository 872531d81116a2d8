"""Arrays as a video: a sequence of frames, a (T, H, W, 3) array, or any iterator of frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from os import PathLike
from typing import Any

from tempomask.errors import InputError
from tempomask.frames import checked_frame
from tempomask.io.sources import Frame, IndexedFrames


class ArrayFrames:
    """Frames given as arrays, each RGB, uint8 (H, W, 3), or as PyAV's. See `sources.Source`.

    A sequence or a (T, H, W, 3) array can be read in any order; an iterator once, from its start,
    and in the thread of whoever reads the frames: it may hold things that belong to that thread.

    Raises InputError if there are no frames, and for a frame of another type, shape or size.
    """

    fps = None
    live = False
    decodes = False

    def __init__(self, frames: Iterable[Any]) -> None:
        self.seekable = isinstance(frames, Sequence) or hasattr(frames, "__array__")
        self._frames: Any = frames
        shape = getattr(frames, "shape", ())
        if len(shape) == 3 and shape[2] in (1, 3, 4):
            raise InputError(
                f"the array of shape {tuple(shape)} is one image, not a video; give a list of"
                " images, also for a single one"
            )
        if self.seekable:
            self.name = "the array of frames" if hasattr(frames, "ndim") else "the list of frames"
            self.num_frames: int | None = len(self._frames)
            first = self._frames[0] if len(self._frames) else None
        else:
            self.name = "the iterator of frames"
            self.num_frames = None
            rest = iter(frames)
            first = next(rest, None)
            self._frames = chain([first], rest)
        if first is None:
            raise InputError(f"{self.name} is empty; give at least one frame")
        height, width, _ = self._check(0, first, None).shape
        self.size = (height, width)
        self._used = False

    def read(self, start: int, end: int | None) -> IndexedFrames:
        """Frames from `start` to before `end`; InputError for an iterator already used up."""
        if not self.seekable:
            if self._used:
                raise InputError(f"{self.name} can be read once only; give a list to read it again")
            self._used = True
        for index, frame in self._between(start, end):
            yield index, self._check(index, frame, self.size)

    def read_reversed(self, start: int | None, end: int) -> IndexedFrames:
        """Frames from `start` down to `end`."""
        for index in range(len(self._frames) - 1 if start is None else start, end - 1, -1):
            yield index, self._check(index, self._frames[index], self.size)

    def close(self) -> None:
        """Nothing to do: the arrays belong to the caller."""

    def _between(self, start: int, end: int | None) -> Iterator[tuple[int, Any]]:
        if self.num_frames is not None:
            for index in range(
                start, self.num_frames if end is None else min(end, self.num_frames)
            ):
                yield index, self._frames[index]
            return
        if end is not None and end <= start:
            return
        for index, frame in enumerate(self._frames):
            if index >= start:
                yield index, frame
            if end is not None and index + 1 >= end:
                return

    def _check(self, index: int, frame: Any, size: tuple[int, int] | None) -> Frame:
        if isinstance(frame, str | PathLike):
            raise InputError(f"frame {index} of {self.name} is a path; give a list of paths alone")
        if hasattr(frame, "to_ndarray"):
            # A frame of PyAV.
            frame = frame.to_ndarray(format="rgb24")
        array = checked_frame(frame, f"frame {index} of {self.name}")
        if size is not None and array.shape[:2] != size:
            raise InputError(
                f"frame {index} of {self.name} has {array.shape[1]} x {array.shape[0]} pixels,"
                f" frame 0 has {size[1]} x {size[0]}; give frames of one size"
            )
        return array
