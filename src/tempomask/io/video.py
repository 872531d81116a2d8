"""The one way in for frames: `open_video` takes a file, a folder, a camera, a URL or arrays.

>>> with open_video("dog.mp4") as video:  # doctest: +SKIP
...     for index, frame in video.frames(start=100):
...         frame.shape  # (H, W, 3), uint8, RGB
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from io import IOBase
from typing import Any
from urllib.parse import unquote, urlsplit

import numpy as np

from tempomask.errors import InputError
from tempomask.files import given_path
from tempomask.io.camera import open_camera, open_device, open_stream
from tempomask.io.image_pages import ImagePages
from tempomask.io.images import IMAGE_SUFFIXES, page_count
from tempomask.io.sources import ArrayFrames, ImageFolder, Video
from tempomask.io.video_file import VideoFile

__all__ = ["Video", "open_video"]

# What stands for several files: of printf, as ffmpeg takes it, or of a shell.
_PATTERN = re.compile(r"%0?\d*d|[*?]|\[.+\]")


def open_video(source: Any, *, prefetch: int = 4, num_frames: int | None = None) -> Video:
    """Open a source of frames.

    Args:
        source: A path to any video file FFmpeg reads; a folder of JPEG, PNG ... with any names,
            taken in natural order, one image, a TIFF stack or animation, or a list of images'
            paths; a camera index (0, or "0"); a stream URL (rtsp://, http:// ...); an iterable of
            RGB arrays, uint8 (H, W, 3), or of PyAV's frames; or a `Video`, returned as it is.
        prefetch: Frames decoded ahead by a thread; 0 for none.
        num_frames: Of a source that cannot tell, such as an iterator. SAM 2 scales distances in
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
    video = _open_source(source)
    video.prefetch = prefetch
    if video.num_frames is None:
        video.num_frames = num_frames
    return video


def _open_source(source: Any) -> Video:
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


def _open_path(text: str | bytes) -> Video:
    text = os.fsdecode(text)
    if text.lower().startswith("file://"):
        text = unquote(urlsplit(text).path)
    path = given_path(text)
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
    if path.is_dir():
        return ImageFolder(path)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return ImagePages(path) if page_count(path) > 1 else ImageFolder(path)
    if not path.is_file():
        raise InputError(f"{text} is not a file; give a video file, a folder of images or a camera")
    return VideoFile(path)
