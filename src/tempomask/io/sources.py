"""A video, wherever its frames come from; folders of images, and arrays.

Videos in files are in `video_file.py`, cameras and streams in `camera.py`.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from fractions import Fraction
from functools import cached_property
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any, Self
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError, warn
from tempomask.frames import Frame, Size, checked_frame
from tempomask.io.images import IMAGE_SUFFIXES, bit_depth, image_size, read_image
from tempomask.io.threads import WorkerThread

FrameStream = Generator[tuple[int, Frame], None, None]
AnyPath = str | PathLike[str]

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".gif")
)

# Kinds of images that are common in recordings, but not read.
_OTHER_IMAGES = frozenset(
    (".heic", ".heif", ".exr", ".hdr", ".dng", ".raw", ".npy", ".gif", ".svg")
)


class Video(ABC):
    """Frames in order, decoded ahead by a thread. Use as a context manager, or call `close`.

    `open_video` gives one. A subclass implements `_read`, and `_read_reversed` if it is seekable;
    one whose frames are at hand by their number is an `IndexedVideo`.

    Args:
        name: Of the source, for messages.

    Attributes:
        name: As given.
        size: (H, W) in pixels, rotation applied.
        fps: On average; None for folders and arrays.
        times: float64 (num_frames,), seconds of each frame after the first, where the rate varies.
        pixel_aspect: Width of a pixel as it is shown over its height.
        num_frames: Exact number of readable frames; None when unknown (cameras, iterators, and
            files whose packets do not tell).
        frame_names: What the images of a folder are called, without suffix; None without names.
        seekable: Can be read again, from anywhere and backward.
        live: A camera or an endless stream; frames not taken in time are lost.
        decodes: Reading costs time worth a thread.
        prefetch: Frames decoded ahead by it; 0 for none.
        dropped: Frames lost so far (live sources only).
    """

    size: Size
    fps: float | None = None
    times: NDArray[np.float64] | None = None
    pixel_aspect = Fraction(1)
    num_frames: int | None = None
    frame_names: list[str] | None = None
    seekable = True
    live = False
    decodes = True
    prefetch = 4

    def __init__(self, name: str) -> None:
        self.name = name
        self.dropped = 0
        self._closed = False
        self._running: WeakSet[WorkerThread[tuple[int, Frame]]] = WeakSet()

    def __repr__(self) -> str:
        count = "unknown" if self.num_frames is None else self.num_frames
        return f"Video({self.name!r}, {self.size[1]} x {self.size[0]}, frames: {count})"

    def frames(self, start: int = 0, end: int | None = None) -> FrameStream:
        """Pairs (index, frame) from `start` to before `end` (default and at most: all).

        Raises:
            InputError: At once for a range that is not in the video; while reading, for data that
                is damaged, after all frames before it.
        """
        self._check_range(start, end)
        if end is not None and end < start:
            raise InputError(f"end {end} lies before start {start}; frames run from start to end")
        if self.live:
            return self._renumbered(start, end, self._prefetched(self._read(start, None)))
        return self._not_empty(start, end, self._prefetched(self._read(start, end)))

    def reversed_frames(self, start: int | None = None, end: int = 0) -> FrameStream:
        """Pairs (index, frame) from `start` (default: the last) down to and including `end`.

        Memory is bounded, whatever the length.

        Raises:
            InputError: If the source is not seekable, or for a range that is not in the video.
        """
        if not self.seekable:
            return Video._read_reversed(self, start, end)
        self._check_range(start or 0, None)
        if end < 0 or (start is not None and end > start):
            raise InputError(f"backward from frame {start} to {end}: need 0 <= end <= start")
        return self._prefetched(self._read_reversed(start, end))

    def close(self) -> None:
        """Stop reading and give everything back. Iterators in use end."""
        self._closed = True
        for running in list(self._running):
            running.close()
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_range(self, start: int, end: int | None) -> None:
        if self._closed:
            raise InputError(f"{self.name} is closed; open it again")
        if start < 0 or (end is not None and end < 0):
            raise InputError(f"frames count from 0, got start {start}, end {end}")
        if self.num_frames is not None and start >= self.num_frames:
            raise InputError(
                f"{self.name} has {self.num_frames} frames (0 to {self.num_frames - 1});"
                f" frame {start} is not among them"
            )

    def _prefetched(self, items: FrameStream) -> FrameStream:
        """The items, by way of a thread where that saves time."""
        if not self.decodes or self.prefetch < 1:
            yield from items
            return
        ahead = WorkerThread.reading(items, self.prefetch, drop=self.live)
        self._running.add(ahead)
        try:
            yield from ahead
        finally:
            ahead.close()
            self.dropped += ahead.dropped

    def _renumbered(self, start: int, end: int | None, items: FrameStream) -> FrameStream:
        """The items numbered as they arrive: a live source cannot know which are lost."""
        with closing(items):
            taken = islice(items, None if end is None else end - start)
            for index, (_, frame) in enumerate(taken, start):
                yield index, frame

    def _not_empty(self, start: int, end: int | None, items: FrameStream) -> FrameStream:
        """The items; InputError if a source of unknown length ends before the first of them."""
        with closing(items):
            first = next(items, None)
            if first is not None:
                yield first
                yield from items
            elif start > 0 and (end is None or end > start) and not self._closed:
                raise InputError(f"{self.name} ends before frame {start}")

    @abstractmethod
    def _read(self, start: int, end: int | None) -> FrameStream:
        """Frames start, start + 1, ... before end (None: to the last)."""

    def _read_reversed(self, start: int | None, end: int) -> FrameStream:
        """Frames start (None: the last), start - 1, ... down to and including end."""
        raise InputError(f"{self.name} cannot be read backward; give a file, folder or list")

    def _release(self) -> None:  # noqa: B027 (most have nothing to give back)
        """Give back what stays open between readings, if anything does."""


class IndexedVideo(Video):
    """Frames at hand by their number."""

    @abstractmethod
    def _frame(self, index: int) -> Frame:
        """One frame; InputError if it cannot be had."""

    def _read(self, start: int, end: int | None) -> FrameStream:
        """See `Video`."""
        count = self.num_frames or 0
        for index in range(start, count if end is None else min(end, count)):
            yield index, self._frame(index)

    def _read_reversed(self, start: int | None, end: int) -> FrameStream:
        """See `Video`."""
        first = (self.num_frames or 0) - 1 if start is None else start
        for index in range(first, end - 1, -1):
            yield index, self._frame(index)


class ImageFolder(IndexedVideo):
    """Images of one size, read in natural order.

    Args:
        path: A folder, one image, or a list of images, which is taken in the order given.

    Raises:
        InputError: If there are no images, if one has no readable header, if two have different
            sizes or one name (frames and masks in one folder), or if one holds several images.
    """

    def __init__(self, path: AnyPath | Sequence[AnyPath]) -> None:
        if isinstance(path, str | PathLike):
            super().__init__(str(path))
            self.paths = [Path(path)] if Path(path).is_file() else list_images(Path(path))
        else:
            super().__init__("the list of images")
            self.paths = [Path(each) for each in path]
            for each in self.paths:
                if not each.is_file():
                    raise InputError(f"no such image: {each}; check the path")
            _check_names(self.paths)
        self.frame_names = [each.stem for each in self.paths]
        self.num_frames = len(self.paths)
        self.size = image_size(self.paths[0])
        for other in self.paths[1:]:
            self._check_size(other, image_size(other))

    @cached_property
    def _bits(self) -> int | None:
        return bit_depth(self.paths)

    def _frame(self, index: int) -> Frame:
        image = read_image(self.paths[index], self._bits)
        self._check_size(self.paths[index], (image.shape[0], image.shape[1]))
        return image

    def _check_size(self, path: Path, size: Size) -> None:
        if size != self.size:
            raise InputError(
                f"frames of different sizes in {self.name}: {self.paths[0].name} has"
                f" {self.size[1]} x {self.size[0]} pixels, {path.name} has {size[1]} x {size[0]};"
                " bring them to one size, or take out those that do not belong"
            )


class ArrayFrames(IndexedVideo):
    """Frames given as arrays, each RGB, uint8 (H, W, 3), or as PyAV's.

    A sequence or a (T, H, W, 3) array can be read in any order; an iterator once, from its start,
    and in the thread of whoever reads the frames: it may hold things that belong to that thread.

    Args:
        frames: The sequence, array or iterator.

    Raises:
        InputError: If there are no frames, and for a frame of another type, shape or size.
    """

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
            super().__init__(f"the {'array' if hasattr(frames, 'ndim') else 'list'} of frames")
            self.num_frames = len(self._frames)
            first = self._frames[0] if self.num_frames else None
        else:
            super().__init__("the iterator of frames")
            rest = iter(frames)
            first = next(rest, None)
            self._frames = chain([first], rest)
        if first is None:
            raise InputError(f"{self.name} is empty; give at least one frame")
        height, width, _ = self._checked(0, first).shape
        self.size = (height, width)
        self._used = False

    def _frame(self, index: int) -> Frame:
        return self._sized(index, self._frames[index])

    def _read(self, start: int, end: int | None) -> FrameStream:
        """Frames from `start` to before `end`; InputError for an iterator already used up."""
        if self.seekable:
            yield from super()._read(start, end)
            return
        if self._used:
            raise InputError(f"{self.name} can be read once only; give a list to read it again")
        self._used = True
        for index, frame in enumerate(islice(self._frames, end)):
            if index >= start:
                yield index, self._sized(index, frame)

    def _sized(self, index: int, frame: Any) -> Frame:
        array = self._checked(index, frame)
        if array.shape[:2] != self.size:
            raise InputError(
                f"frame {index} of {self.name} has {array.shape[1]} x {array.shape[0]} pixels,"
                f" frame 0 has {self.size[1]} x {self.size[0]}; give frames of one size"
            )
        return array

    def _checked(self, index: int, frame: Any) -> Frame:
        if isinstance(frame, str | PathLike):
            raise InputError(f"frame {index} of {self.name} is a path; give a list of paths alone")
        if hasattr(frame, "to_ndarray"):
            # A frame of PyAV.
            frame = frame.to_ndarray(format="rgb24")
        return checked_frame(frame, f"frame {index} of {self.name}")


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder in natural order.

    Other files are left out with a warning, but for text, tables and hidden ones.

    Raises:
        InputError: If there are none, two of one name, or one that is a link to nothing.
    """
    entries = sorted(Path(folder).iterdir(), key=lambda path: natural_key(path.name))
    visible = [path for path in entries if not path.name.startswith(".")]
    images = [p for p in visible if p.suffix.lower() in IMAGE_SUFFIXES and not p.is_dir()]
    if not images:
        raise InputError(f"no images (JPEG, PNG ...) in the folder {folder}{_hint(visible)}")
    for path in images:
        if not path.is_file():
            what = "a link to a file that is not there" if path.is_symlink() else "not a file"
            raise InputError(f"{path} is {what}; mend it, or remove it if the frame is not wanted")
    _check_names(images)
    other = [path.name for path in visible if path.suffix.lower() in _OTHER_IMAGES]
    if other:
        warn(f"{folder}: {len(other)} files that are not read as frames, such as {other[0]}")
    return images


def _check_names(images: Sequence[Path]) -> None:
    """InputError for two images of one name, a frame and its mask for instance."""
    by_stem: dict[str, Path] = {}
    for path in images:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise InputError(
                f"two frames have the name {path.stem}: {other} and {path}; results are called"
                " after frames: keep one of them, or rename it"
            )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Key that sorts numbers inside names by value: frame2 before frame10."""
    parts = re.split(r"(\d+)", name.casefold())
    return [int(part) if part.isdecimal() else part for part in parts], name


def _hint(visible: list[Path]) -> str:
    videos = [path.name for path in visible if path.suffix.lower() in VIDEO_SUFFIXES]
    if videos:
        return f"; it holds videos, give one of them: {videos[0]}"
    for path in visible:
        if path.is_dir() and any(p.suffix.lower() in IMAGE_SUFFIXES for p in path.iterdir()):
            return f"; its folder {path.name} holds some, give that one"
    return "; it holds other files only" if visible else "; it is empty"
