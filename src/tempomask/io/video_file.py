"""A video file, read with PyAV: exact frame numbers, any range and direction, rotation applied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.errors import InputError, warn
from tempomask.frames import Frame
from tempomask.io.containers import (
    CLOCK,
    DEFAULT_FPS,
    av_errors,
    error_text,
    frame_rate,
    open_container,
    pixel_aspect,
    size_changed,
    upright,
    video_stream,
)
from tempomask.io.frame_index import (
    FrameIndex,
    index_by_decoding,
    index_by_packets,
    missing_bytes,
    missing_frames,
    varying_times,
)
from tempomask.io.sources import FrameStream, Video

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


class VideoFile(Video):
    """A video file on this machine.

    Args:
        path: Of the file.

    Raises:
        InputError: If the file is missing, empty, holds no video, or if nothing in it decodes.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__(str(path))
        self.path = Path(path)
        if self.path.stat().st_size == 0:
            raise InputError(f"{self.name} is empty (0 bytes); give a video file")
        with self._opened() as (container, stream):
            image = upright(self._first_frame(container, stream))
            self.size = (image.shape[0], image.shape[1])
            self.fps, self.pixel_aspect = frame_rate(stream), pixel_aspect(stream, image)
            announced, self._unit = stream.frames or None, stream.time_base or CLOCK
        with self._opened() as (container, stream):
            self._index = index_by_packets(container, stream)
            self.times = None if self._index is None else varying_times(self._index, stream)
            if self._index is None and self.fps is not None and self.fps > _MOST_FPS:
                rate = stream.guessed_rate
                self.fps = float(rate) if rate and rate <= _MOST_FPS else None
        lost = None if self.times is None else missing_frames(self.times)
        if lost is not None:
            warn(
                f"{self.name}: by their times, {lost[0]} frames are missing, the first after frame"
                f" {lost[1]}; frames there may be damaged, and numbers skip nothing"
            )
        missing = missing_bytes(self.path)
        whole = announced is not None and self._index and self._index.count >= announced
        self._missing = (
            f"the file is {missing:,} bytes too short" if missing and not whole else None
        )
        # Unknown until a file of unclear packets is read.
        self.num_frames = self._index.count if self._index else None
        if self.num_frames == 0:
            raise InputError(f"{self.name} {self._damage() or 'holds no frames'}")

    def seconds(self, frame: int) -> float:
        """When a frame is shown, on the file's own clock; also the end of the last one."""
        index, length = self._full_index(), 1 / (self.fps or DEFAULT_FPS)
        if index.times is None:
            return frame * length
        last = min(frame, index.count - 1)
        return float(index.times[last] * self._unit) + (frame - last) * length

    def _read(self, start: int, end: int | None) -> FrameStream:
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

    def _read_reversed(self, start: int | None, end: int) -> FrameStream:
        """Frames from `start` down to `end`, decoded forward in chunks of bounded memory."""
        index = self._full_index()
        last = index.count - 1 if start is None else start
        limit = max(1, _BACKWARD_BYTES // (3 * self.size[0] * self.size[1]))
        for low, high in index.chunks_backward(last, end, limit):
            chunk = [frame for _, frame in self._read(low, high)]
            for position in range(high - 1, low - 1, -1):
                yield position, chunk.pop()

    @contextmanager
    def _opened(self) -> Iterator[tuple[InputContainer, VideoStream]]:
        container = open_container(self.path, self.name)
        with container:
            stream = video_stream(container, self.name)
            if stream.width * stream.height > _ONE_THREAD_PIXELS:
                stream.thread_type = "AUTO"
            yield container, stream

    def _full_index(self) -> FrameIndex:
        if self._index is None:
            with self._opened() as (container, stream):
                self._index = index_by_decoding(container, stream)
            self.num_frames = self._index.count
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
