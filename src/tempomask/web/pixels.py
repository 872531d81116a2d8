"""Frames of an open video by their number, as arrays and as JPEG, cached and read ahead."""

from __future__ import annotations

import io
from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

from tempomask.errors import InputError
from tempomask.frames import Frame
from tempomask.io.sources import FrameStream, Video

# Larger frames are shown at this size; prompts and masks are always in the video's pixels.
SHOWN_SIDE = 1920
_QUALITY = 88
_ARRAY_BYTES, _JPEG_BYTES = 192 * 2**20, 128 * 2**20
# A frame so close behind the one last read is reached by reading on.
_NEAR = 12

Value = TypeVar("Value", bytes, Frame)


class Recent(Generic[Value]):
    """The values used last, within a number of bytes."""

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes = limit, 0
        self._values: OrderedDict[int, Value] = OrderedDict()

    def get(self, key: int) -> Value | None:
        """The value; None if it is not kept."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: int, value: Value) -> None:
        """Keep a value, and let go of the oldest."""
        if key in self._values:
            return
        self._values[key] = value
        self._bytes += _bytes_of(value)
        while self._bytes > self._limit and len(self._values) > 1:
            self._bytes -= _bytes_of(self._values.popitem(last=False)[1])


class Pixels:
    """The frames of a video; may be asked by several threads.

    Args:
        video: Open, with a known number of frames.
    """

    def __init__(self, video: Video) -> None:
        self.video = video
        self._lock = Lock()
        self._stream: FrameStream | None = None
        self._next = -1
        self._arrays: Recent[Frame] = Recent(_ARRAY_BYTES)
        self._jpegs: Recent[bytes] = Recent(_JPEG_BYTES)

    def frame(self, index: int) -> Frame:
        """uint8 (H, W, 3); InputError for a frame that is not there or damaged."""
        count = self.video.num_frames or 0
        if not 0 <= index < count:
            raise InputError(f"frame {index} is not in the video (0 to {count - 1})")
        with self._lock:
            return self._read(index)

    def jpeg(self, index: int) -> bytes:
        """The frame as JPEG, no larger than SHOWN_SIDE."""
        with self._lock:
            known = self._jpegs.get(index)
        if known is not None:
            return known
        data = encode_jpeg(self.frame(index))
        with self._lock:
            self._jpegs.put(index, data)
        return data

    def close(self) -> None:
        """Stop reading ahead."""
        with self._lock:
            if self._stream is not None:
                self._stream.close()
                self._stream = None

    def _read(self, index: int) -> Frame:
        known = self._arrays.get(index)
        if known is not None:
            return known
        if self._stream is None or not 0 <= index - self._next <= _NEAR:
            if self._stream is not None:
                self._stream.close()
            self._stream, self._next = self.video.frames(index), index
        for found, frame in self._stream:
            self._next = found + 1
            self._arrays.put(found, frame)
            if found == index:
                return frame
        self._stream = None
        raise InputError(f"{self.video.name} ends before frame {index}")


def encode_jpeg(frame: Frame) -> bytes:
    """A frame as JPEG for the page."""
    from PIL import Image

    image = Image.fromarray(frame)
    longest = max(image.size)
    if longest > SHOWN_SIDE:
        width, height = (max(1, round(side * SHOWN_SIDE / longest)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_QUALITY)
    return data.getvalue()


def _bytes_of(value: bytes | Frame) -> int:
    return len(value) if isinstance(value, bytes) else value.nbytes
