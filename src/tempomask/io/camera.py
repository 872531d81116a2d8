"""A camera or a network stream as a video: read once, as it comes."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tempomask.errors import InputError
from tempomask.io.containers import (
    SCHEMES,
    av_errors,
    error_text,
    frame_rate,
    open_container,
    size_changed,
    upright,
    video_stream,
)
from tempomask.io.sources import FrameStream, Video

if TYPE_CHECKING:
    from av import VideoFrame

# Apple's capture device reports "try again" until the next frame is there.
_RETRY_SECONDS = 0.005
_RETRY_LIMIT = 10.0


class Stream(Video):
    """Frames of a camera or of an address such as rtsp://, http:// or udp://.

    It is live if it has no end: frames that nobody takes in time are lost, so that what is read is
    what the camera sees now. Files read over http have an end, and lose nothing.

    Args:
        address: What FFmpeg calls it.
        name: For messages.
        demuxer: FFmpeg's name of the format or capture device; None to find out.
        options: Of FFmpeg.

    Raises:
        InputError: If it cannot be opened, sends no images, or changes their size.
    """

    seekable = False

    def __init__(
        self,
        address: str,
        name: str,
        *,
        demuxer: str | None = None,
        options: dict[str, str] | None = None,
    ) -> None:
        super().__init__(name)
        self._container = open_container(address, name, demuxer=demuxer, options=options)
        try:
            self._stream = video_stream(self._container, name)
            self._frames = self._decode()
            first = self._next(0)
            if first is None:
                raise InputError(f"{name} sends no images; check that it is running")
        except InputError:
            self._container.close()
            raise
        self._first: VideoFrame | None = first
        height, width, _ = upright(first).shape
        self.size = (height, width)
        self.fps = frame_rate(self._stream)
        self.live = self._container.duration is None

    def _read(self, start: int, end: int | None) -> FrameStream:
        """Frames from `start` to before `end`, once; InputError when the stream fails."""
        first, self._first = self._first, None
        if first is None:
            raise InputError(f"{self.name} can be read once only; open it again")
        index, frame = 0, first
        while frame is not None and (end is None or index < end):
            if index >= start:
                image = upright(frame)
                if image.shape[:2] != self.size:
                    raise size_changed(self.name, index, self.size, image)
                yield index, image
            index += 1
            if end is None or index < end:
                frame = self._next(index)

    def _release(self) -> None:
        """Give the camera or the connection back."""
        self._container.close()

    def _decode(self) -> Iterator[VideoFrame]:
        from av.error import BlockingIOError as TryAgain

        waited = 0.0
        while waited < _RETRY_LIMIT:
            try:
                for frame in self._container.decode(self._stream):
                    waited = 0.0
                    yield frame
                return
            except TryAgain:
                time.sleep(_RETRY_SECONDS)
                waited += _RETRY_SECONDS
        raise InputError(f"{self.name} has sent no image for {_RETRY_LIMIT:g} seconds")

    def _next(self, index: int) -> VideoFrame | None:
        try:
            return next(self._frames, None)
        except av_errors() as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"{self.name} stops at frame {index} ({error_text(error)}); frames before it are"
                " good"
            ) from None


def open_camera(index: int) -> Stream:
    """The camera with this index, as the system counts; InputError if it is not there."""
    address, demuxer = camera_address(index, sys.platform)
    return Stream(address, f"camera {index}", demuxer=demuxer)


def open_device(path: Path) -> Stream:
    """The camera at a device file such as /dev/video0; InputError if it sends no images."""
    return Stream(str(path), str(path), demuxer="v4l2")


def open_stream(url: str) -> Stream:
    """The stream at a URL; InputError if it cannot be reached, or is of another scheme."""
    scheme = url.partition("://")[0].lower()
    if scheme not in SCHEMES:
        raise InputError(
            f"{url} is not a file, nor a URL that can be opened; those begin with"
            f" {', '.join(SCHEMES)}"
        )
    options = {"rtsp_transport": "tcp"} if url.startswith("rtsp") else {}
    return Stream(url, url, options=options)


def camera_address(index: int, platform: str) -> tuple[str, str]:
    """What FFmpeg calls the camera on this platform, and the name of its capture device."""
    if platform.startswith("linux"):
        return f"/dev/video{index}", "v4l2"
    if platform == "darwin":
        return str(index), "avfoundation"
    if platform == "win32":
        import av

        names = [device.description for device in av.enumerate_input_devices("dshow")]
        if index >= len(names):
            found = ", ".join(names) or "none"
            raise InputError(f"no camera {index}; cameras on this machine: {found}")
        return f"video={names[index]}", "dshow"
    raise InputError(f"cameras are not supported on {platform}; give a file or a stream URL")
