"""A video file, read with PyAV: exact frame numbers, any range and direction, rotation applied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tempomask.errors import InputError
from tempomask.io.frame_index import (
    FrameIndex,
    av_errors,
    error_text,
    index_by_decoding,
    index_by_packets,
)
from tempomask.io.sources import Frame, IndexedFrames
from tempomask.io.truncation import missing_bytes

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Memory for frames decoded forward to be given out backward.
_BACKWARD_BYTES = 192 * 2**20

# Up to this size a frame decodes in a few milliseconds, and more threads only cost start-up time.
_ONE_THREAD_PIXELS = 1920 * 1088

# Where times cannot be relied on, frames faster than this are taken for a mistake of theirs.
_MOST_FPS = 120

# FFmpeg draws text files as images; to a person they are no videos.
_NOT_VIDEO = {"tty", "bin", "xbin", "adf", "idf"}


class VideoFile:
    """A video file on this machine. See `sources.Source`.

    Raises InputError if the file is missing, empty, holds no video, or if nothing in it decodes.
    """

    seekable = True
    live = False
    decodes = True

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.name = str(path)
        if self.path.stat().st_size == 0:
            raise InputError(f"{self.name} is empty (0 bytes); give a video file")
        with self._opened() as (container, stream):
            image = upright(self._first_frame(container, stream))
            self.size = (image.shape[0], image.shape[1])
            self.fps = frame_rate(stream)
            announced = stream.frames or None
        with self._opened() as (container, stream):
            self._index = index_by_packets(container, stream)
            if self._index is None and self.fps is not None and self.fps > _MOST_FPS:
                rate = stream.guessed_rate
                self.fps = float(rate) if rate and rate <= _MOST_FPS else None
        missing = missing_bytes(self.path)
        whole = announced is not None and self._index and self._index.count >= announced
        self._missing = (
            f"the file is {missing:,} bytes too short" if missing and not whole else None
        )
        if self._index is not None and self._index.count == 0:
            raise InputError(f"{self.name} {self._damage() or 'holds no frames'}")

    @property
    def num_frames(self) -> int | None:
        """Exact number of frames that can be read; None until a file of unclear packets is read."""
        return self._index.count if self._index else None

    def read(self, start: int, end: int | None) -> IndexedFrames:
        """Frames from `start` to before `end`; InputError where the data is damaged."""
        index = self._full_index() if start else self._index
        limit = end if index is None else min(index.count, index.count if end is None else end)
        position = start
        with self._opened() as (container, stream):
            frames = self._decode(container, stream, start, index)
            while limit is None or position < limit:
                try:
                    frame = next(frames)
                except StopIteration:
                    break
                except av_errors() as error:
                    if isinstance(error, InputError):
                        raise
                    what = f"cannot be decoded ({error_text(error)})"
                    raise self._damaged(position, what) from None
                yield position, self._image(position, frame)
                position += 1
        if end is not None and position >= end:
            return
        if self._damage():
            raise self._damaged(position, f"is missing: {self._damage()}")
        if index is not None and position < index.count:
            raise self._damaged(position, "is missing")

    def read_reversed(self, start: int | None, end: int) -> IndexedFrames:
        """Frames from `start` down to `end`, decoded forward in chunks of bounded memory."""
        index = self._full_index()
        last = index.count - 1 if start is None else start
        limit = max(1, _BACKWARD_BYTES // (3 * self.size[0] * self.size[1]))
        for low, high in index.chunks_backward(last, end, limit):
            chunk = [frame for _, frame in self.read(low, high)]
            for position in range(high - 1, low - 1, -1):
                yield position, chunk.pop()

    def close(self) -> None:
        """Nothing to do: every reading opens the file for itself."""

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        container = open_container(str(self.path), self.name)
        with container:
            stream = video_stream(container, self.name)
            if stream.width * stream.height > _ONE_THREAD_PIXELS:
                stream.thread_type = "AUTO"
            yield container, stream

    def _full_index(self) -> FrameIndex:
        if self._index is None:
            with self._opened() as (container, stream):
                self._index = index_by_decoding(container, stream)
        return self._index

    def _first_frame(self, container: InputContainer, stream: VideoStream) -> VideoFrame:
        try:
            frame = next(container.decode(stream), None)
        except av_errors() as error:
            raise InputError(
                f"{self.name}: not one frame can be decoded ({error_text(error)}); the file is"
                " damaged or cut short"
            ) from None
        if frame is None:
            raise InputError(f"{self.name} holds no frames; the file is damaged or cut short")
        return frame

    def _decode(
        self, container: InputContainer, stream: VideoStream, start: int, index: FrameIndex | None
    ) -> Iterator[VideoFrame]:
        """Decoded frames from exactly `start` on."""
        if start == 0 or index is None or index.times is None:
            yield from islice(container.decode(stream), start, None)
            return
        for entry in index.entries(start):
            container.seek(int(index.times[entry]), stream=stream)
            frames = container.decode(stream)
            wanted = int(index.times[start])
            frame = next((f for f in frames if f.pts is not None and f.pts >= wanted), None)
            if frame is not None and frame.pts == wanted:
                break
        else:  # the container cannot seek well; counting from the first frame always works
            with self._opened() as (container, stream):
                yield from islice(container.decode(stream), start, None)
            return
        yield frame
        for position, frame in enumerate(frames, start + 1):
            if position < index.count and frame.pts != index.times[position]:
                raise self._damaged(position, "is not where the file's index says")
            yield frame

    def _image(self, position: int, frame: VideoFrame) -> Frame:
        image = upright(frame)
        if image.shape[:2] != self.size:
            raise size_changed(self.name, position, self.size, image)
        return image

    def _damage(self) -> str | None:
        return self._missing or (self._index.damage if self._index else None)

    def _damaged(self, position: int, what: str) -> InputError:
        announced = self._index.announced if self._index else None
        of = f" of {announced}" if announced else ""
        end = f"; frames before it are good: stop there with end={position}" if position else ""
        return InputError(
            f"{self.name}: frame {position}{of} {what}{end}, or repair the file with"
            " `ffmpeg -i FILE -c:v libx264 repaired.mp4`"
        )


def open_container(
    address: str, name: str, *, form: str | None = None, options: dict[str, str] | None = None
) -> InputContainer:
    """An opened container; InputError when FFmpeg finds nothing in it that it knows."""
    import av

    try:
        # Bytes that are no text in a title must not stop the reading of the images.
        return av.open(
            address,
            format=form,
            options=options or {},
            metadata_errors="replace",
            timeout=(10.0, 10.0) if "://" in address else None,
        )
    except av_errors() as error:
        if form is None and "://" not in address:
            raise InputError(
                f"cannot read {name} as a video ({error_text(error)}); the file is no video, or it"
                " was cut short before it was finished"
            ) from None
        raise InputError(
            f"cannot open {name} ({error_text(error)}); check that it is there, and not in use"
        ) from None


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """The best video stream; InputError if there is none. Cover images of music do not count."""
    from av.stream import Disposition

    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams or container.format.name in _NOT_VIDEO:
        kinds = sorted({stream.type for stream in container.streams} - {"video"})
        found = f" (only {' and '.join(kinds)})" if kinds else ""
        raise InputError(f"{name} holds no video{found}; give a video file")
    best = container.streams.best("video")
    return best if best in streams else streams[0]  # type: ignore[return-value]


def frame_rate(stream: VideoStream) -> float | None:
    """Frames per second, on average where they vary; None if the stream does not say."""
    rate = stream.average_rate or stream.guessed_rate or stream.base_rate
    return float(rate) if rate else None


def upright(frame: VideoFrame) -> Frame:
    """The decoded frame as RGB, uint8 (H, W, 3), turned and mirrored as its metadata says."""
    image = np.asarray(frame.to_ndarray(format="rgb24"), dtype=np.uint8)
    matrix = _display_matrix(frame)
    if matrix is None:
        return image
    (a, b), (c, d) = matrix
    # A pixel at (x, y) is shown at (a x + c y, b x + d y), y downwards.
    if abs(b) > abs(a):
        image = image.transpose(1, 0, 2)
        a, d = c, b
    image = image[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]
    return np.ascontiguousarray(image)


def _display_matrix(frame: VideoFrame) -> NDArray[np.float64] | None:
    """The 2 x 2 part of the display matrix (ISO/IEC 14496-12, 8.3.2); None without one."""
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV does not know some newer kinds of side data
        angle = np.deg2rad(frame.rotation)
        return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    if data is None:
        return None
    matrix = np.frombuffer(bytes(data), dtype=np.int32).reshape(3, 3)[:2, :2].astype(np.float64)
    return matrix if matrix.any() else None


def size_changed(name: str, position: int, size: tuple[int, int], image: Frame) -> InputError:
    """The error for a frame that is not as large as the first."""
    height, width = image.shape[:2]
    return InputError(
        f"{name}: frame {position} has {width} x {height} pixels, the first has {size[1]} x"
        f" {size[0]}; bring all frames to one size, for instance with `ffmpeg -i FILE -vf"
        f" scale={size[1]}:{size[0]} same.mp4`"
    )
