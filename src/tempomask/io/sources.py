"""Where frames come from: the base of all sources, folders of images, and arrays.

Videos in files are in `video_file.py`, cameras and streams in `camera.py`.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from itertools import chain, islice
from os import PathLike
from pathlib import Path
from typing import Any

from tempomask.errors import InputError
from tempomask.frames import Frame, Size, checked_frame
from tempomask.io.images import IMAGE_SUFFIXES, image_size, read_image

FrameStream = Generator[tuple[int, Frame], None, None]
AnyPath = str | PathLike[str]

VIDEO_SUFFIXES = frozenset(
    (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".wmv", ".gif")
)


class Source:
    """A source of RGB frames, uint8 (H, W, 3), numbered from 0. `Video` reads it.

    A source whose frames are at hand by their number implements `frame`; others `read`.

    Attributes:
        name: for messages.
        size: (H, W) in pixels.
        fps: frames per second; None when the source has no clock.
        seekable: frames can be read in any order, and again.
        live: frames that nobody takes in time are lost.
        decodes: reading costs time worth a thread.
        frame_names: what the frames are called, without suffix, each name once; None without names.
    """

    name: str
    size: Size
    fps: float | None = None
    seekable = True
    live = False
    decodes = True
    frame_names: list[str] | None = None

    @property
    def num_frames(self) -> int | None:
        """Exact; None when unknown."""
        return None

    def frame(self, index: int) -> Frame:
        """One frame; InputError if it cannot be had."""
        raise NotImplementedError(f"{type(self).__name__} gives no single frames")

    def read(self, start: int, end: int | None) -> FrameStream:
        """Frames start, start + 1, ... before end (None: to the last)."""
        count = self.num_frames or 0
        for index in range(start, count if end is None else min(end, count)):
            yield index, self.frame(index)

    def read_reversed(self, start: int | None, end: int) -> FrameStream:
        """Frames start (None: the last), start - 1, ... down to and including end.

        Called on seekable sources only.
        """
        first = (self.num_frames or 0) - 1 if start is None else start
        for index in range(first, end - 1, -1):
            yield index, self.frame(index)

    def close(self) -> None:
        """Give back what stays open between readings, if anything does."""


class ImageFolder(Source):
    """Images of one size, read in natural order.

    Args:
        path: a folder, one image, or a list of images, which is taken in the order given.

    Raises:
        InputError: If there are no images, if one has no readable header, if two have different
            sizes, or if one name comes with two suffixes (frames and masks in one folder).
    """

    def __init__(self, path: AnyPath | Sequence[AnyPath]) -> None:
        if isinstance(path, str | PathLike):
            self.name = str(path)
            self.paths = [Path(path)] if Path(path).is_file() else list_images(Path(path))
        else:
            self.name = "the list of images"
            self.paths = [Path(each) for each in path]
            for each in self.paths:
                if not each.is_file():
                    raise InputError(f"no such image: {each}; check the path")
        self.frame_names = [each.stem for each in self.paths]
        self.size = image_size(self.paths[0])
        for other in self.paths[1:]:
            self._check_size(other, image_size(other))

    @property
    def num_frames(self) -> int:
        return len(self.paths)

    def frame(self, index: int) -> Frame:
        image = read_image(self.paths[index])
        self._check_size(self.paths[index], (image.shape[0], image.shape[1]))
        return image

    def _check_size(self, path: Path, size: Size) -> None:
        if size != self.size:
            raise InputError(
                f"frames of different sizes in {self.name}: {self.paths[0].name} has"
                f" {self.size[1]} x {self.size[0]} pixels, {path.name} has {size[1]} x {size[0]};"
                " bring them to one size, or take out those that do not belong"
            )


class ArrayFrames(Source):
    """Frames given as arrays, each RGB, uint8 (H, W, 3), or as PyAV's.

    A sequence or a (T, H, W, 3) array can be read in any order; an iterator once, from its start,
    and in the thread of whoever reads the frames: it may hold things that belong to that thread.

    Args:
        frames: the sequence, array or iterator.

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
            self.name = "the array of frames" if hasattr(frames, "ndim") else "the list of frames"
            first = self._frames[0] if len(self._frames) else None
        else:
            self.name = "the iterator of frames"
            rest = iter(frames)
            first = next(rest, None)
            self._frames = chain([first], rest)
        if first is None:
            raise InputError(f"{self.name} is empty; give at least one frame")
        height, width, _ = self._check(0, first).shape
        self.size = (height, width)
        self._used = False

    @property
    def num_frames(self) -> int | None:
        return len(self._frames) if self.seekable else None

    def frame(self, index: int) -> Frame:
        return self._sized(index, self._frames[index])

    def read(self, start: int, end: int | None) -> FrameStream:
        """Frames from `start` to before `end`; InputError for an iterator already used up."""
        if self.seekable:
            yield from super().read(start, end)
            return
        if self._used:
            raise InputError(f"{self.name} can be read once only; give a list to read it again")
        self._used = True
        for index, frame in enumerate(islice(self._frames, end)):
            if index >= start:
                yield index, self._sized(index, frame)

    def _sized(self, index: int, frame: Any) -> Frame:
        array = self._check(index, frame)
        if array.shape[:2] != self.size:
            raise InputError(
                f"frame {index} of {self.name} has {array.shape[1]} x {array.shape[0]} pixels,"
                f" frame 0 has {self.size[1]} x {self.size[0]}; give frames of one size"
            )
        return array

    def _check(self, index: int, frame: Any) -> Frame:
        if isinstance(frame, str | PathLike):
            raise InputError(f"frame {index} of {self.name} is a path; give a list of paths alone")
        if hasattr(frame, "to_ndarray"):
            # A frame of PyAV.
            frame = frame.to_ndarray(format="rgb24")
        return checked_frame(frame, f"frame {index} of {self.name}")


def list_images(folder: str | Path) -> list[Path]:
    """The images of a folder in natural order.

    Raises:
        InputError: If there are none, or two of one name.
    """
    entries = sorted(Path(folder).iterdir(), key=lambda path: natural_key(path.name))
    visible = [path for path in entries if not path.name.startswith(".")]
    images = [p for p in visible if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()]
    if not images:
        raise InputError(f"no images (JPEG, PNG ...) in the folder {folder}{_hint(visible)}")
    by_stem: dict[str, Path] = {}
    for path in images:
        other = by_stem.setdefault(path.stem, path)
        if other is not path:
            raise InputError(
                f"{folder} holds both {other.name} and {path.name}; which one is the frame is not"
                " clear: keep frames in a folder of their own"
            )
    return images


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
