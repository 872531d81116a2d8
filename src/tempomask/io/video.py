"""The one way in for frames: `open_video` takes a file, a folder, a camera, a URL or arrays.

>>> with open_video("dog.mp4") as video:  # doctest: +SKIP
...     for index, frame in video.frames(start=100):
...         frame.shape  # (H, W, 3), uint8, RGB
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextlib import closing
from io import IOBase
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from weakref import WeakSet

import numpy as np

from tempomask.errors import InputError
from tempomask.frames import Frame, Size
from tempomask.io.camera import open_camera, open_device, open_stream
from tempomask.io.images import IMAGE_SUFFIXES
from tempomask.io.sources import ArrayFrames, FrameStream, ImageFolder, Source
from tempomask.io.threads import WorkerThread
from tempomask.io.video_file import VideoFile

# What stands for several files: of printf, as ffmpeg takes it, or of a shell.
_PATTERN = re.compile(r"%0?\d*d|[*?]|\[.+\]")


def open_video(source: Any, *, prefetch: int = 4, num_frames: int | None = None) -> Video:
    """Open a source of frames.

    Args:
        source: a path to any video file FFmpeg reads; a folder of JPEG, PNG ... with any names,
            taken in natural order, one image, or a list of images' paths; a camera index (0, or
            "0"); a stream URL (rtsp://, http:// ...); an iterable of RGB arrays, uint8 (H, W, 3),
            or of PyAV's frames; or a `Video`, returned as it is.
        prefetch: frames decoded ahead by a thread; 0 for none.
        num_frames: of a source that cannot tell, such as an iterator. SAM 2 scales distances in
            time by it in videos of fewer than 16 frames, whose masks therefore differ a little
            between a list of frames and an iterator of the same ones, unless this is given.

    Raises:
        InputError: For a missing, empty or damaged file, a file without video, a folder without
            images or with images of different sizes, a camera that is not there, other arrays.
    """
    if isinstance(source, Video):
        return source
    if num_frames is not None and num_frames < 1:
        raise InputError(f"num_frames must be 1 or more, got {num_frames}")
    return Video(_open_source(source), prefetch, num_frames)


class Video:
    """Frames in order, decoded ahead by a thread. Use as a context manager, or call `close`.

    Attributes:
        name: of the source, for messages.
        size: (H, W) in pixels, rotation applied.
        fps: on average; None for folders and arrays.
        num_frames: exact number of readable frames; None when unknown (cameras, iterators, and
            files whose packets do not tell).
        seekable: can be read again, from anywhere and backward.
        live: a camera or an endless stream; frames not taken in time are lost.
        dropped: frames lost so far (live sources only).
    """

    def __init__(self, source: Source, prefetch: int = 4, num_frames: int | None = None) -> None:
        self._source, self._num_frames = source, num_frames
        self._prefetch = prefetch
        self._closed = False
        self._running: WeakSet[WorkerThread[tuple[int, Frame]]] = WeakSet()
        self.dropped = 0

    @property
    def name(self) -> str:
        return self._source.name

    @property
    def size(self) -> Size:
        return self._source.size

    @property
    def fps(self) -> float | None:
        return self._source.fps

    @property
    def num_frames(self) -> int | None:
        known = self._source.num_frames
        return self._num_frames if known is None else known

    @property
    def frame_names(self) -> list[str] | None:
        """What the images of a folder are called, without suffix; no name comes twice."""
        return self._source.frame_names

    @property
    def seekable(self) -> bool:
        return self._source.seekable

    @property
    def live(self) -> bool:
        return self._source.live

    def __repr__(self) -> str:
        count = "unknown" if self.num_frames is None else self.num_frames
        return f"Video({self.name!r}, {self.size[1]} x {self.size[0]}, frames: {count})"

    def frames(self, start: int = 0, end: int | None = None) -> FrameStream:
        """Pairs (index, frame) from `start` to before `end` (default and at most: all).

        Raises:
            InputError: At once for a range that is not in the video; while reading, for data that
                is damaged, after all frames before it.
        """
        self._check(start, end)
        if end is not None and end < start:
            raise InputError(f"end {end} lies before start {start}; frames run from start to end")
        if self.live:
            return self._counted(start, end, self._deliver(self._source.read(start, None)))
        return self._expect_some(start, end, self._deliver(self._source.read(start, end)))

    def reversed_frames(self, start: int | None = None, end: int = 0) -> FrameStream:
        """Pairs (index, frame) from `start` (default: the last) down to and including `end`.

        Memory is bounded, whatever the length.

        Raises:
            InputError: If the source is not seekable, or for a range that is not in the video.
        """
        if not self.seekable:
            raise InputError(f"{self.name} cannot be read backward; give a file, folder or list")
        self._check(start or 0, None)
        if end < 0 or (start is not None and end > start):
            raise InputError(f"backward from frame {start} to {end}: need 0 <= end <= start")
        return self._deliver(self._source.read_reversed(start, end))

    def close(self) -> None:
        """Stop reading and give everything back. Iterators in use end."""
        self._closed = True
        for running in list(self._running):
            running.close()
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check(self, start: int, end: int | None) -> None:
        if self._closed:
            raise InputError(f"{self.name} is closed; open it again")
        if start < 0 or (end is not None and end < 0):
            raise InputError(f"frames count from 0, got start {start}, end {end}")
        if self.num_frames is not None and start >= self.num_frames:
            raise InputError(
                f"{self.name} has {self.num_frames} frames (0 to {self.num_frames - 1});"
                f" frame {start} is not among them"
            )

    def _deliver(self, items: FrameStream) -> FrameStream:
        """The items, by way of a thread where that saves time."""
        if not self._source.decodes or self._prefetch < 1:
            yield from items
            return
        ahead = WorkerThread.reading(items, self._prefetch, drop=self.live)
        self._running.add(ahead)
        try:
            yield from ahead
        finally:
            ahead.close()
            self.dropped += ahead.dropped

    def _counted(self, start: int, end: int | None, items: FrameStream) -> FrameStream:
        """The items numbered as they arrive: a live source cannot know which are lost."""
        with closing(items):
            taken = islice(items, None if end is None else end - start)
            for index, (_, frame) in enumerate(taken, start):
                yield index, frame

    def _expect_some(self, start: int, end: int | None, items: FrameStream) -> FrameStream:
        """The items; InputError if a source of unknown length ends before the first of them."""
        with closing(items):
            first = next(items, None)
            if first is not None:
                yield first
                yield from items
            elif start > 0 and (end is None or end > start) and not self._closed:
                raise InputError(f"{self.name} ends before frame {start}")


def _open_source(source: Any) -> Source:
    if isinstance(source, (int, np.integer)) and not isinstance(source, bool):
        return open_camera(int(source))
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source))
    if isinstance(source, IOBase):
        raise InputError(
            f"cannot read frames from an open file ({type(source).__name__}); give its path, or"
            " write it to a file first"
        )
    if isinstance(source, list | tuple) and source and all(map(_is_path, source)):
        return ImageFolder(source)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray, dict)):
        return ArrayFrames(source)
    raise InputError(
        f"cannot read frames from {type(source).__name__}; give a video file, a folder of images,"
        " a camera index, a stream URL or an iterable of (H, W, 3) uint8 arrays"
    )


def _is_path(item: Any) -> bool:
    return isinstance(item, (str, os.PathLike))


def _open_path(text: str | bytes) -> Source:
    text = os.fsdecode(text)
    path = Path(text).expanduser()
    if "://" in text and not path.exists():
        return open_stream(text)
    if text.isdecimal() and not path.exists():
        return open_camera(int(text))
    if not path.exists():
        if _PATTERN.search(path.name):
            raise InputError(
                f"no such file or folder: {text}; for images give their folder, {path.parent},"
                " instead of a pattern"
            )
        raise InputError(f"no such file or folder: {text}; check the path")
    if path.is_char_device():
        return open_device(path)
    if path.is_dir() or path.suffix.lower() in IMAGE_SUFFIXES:
        return ImageFolder(path)
    return VideoFile(path)
