"""Which frames a video file holds: their number, time stamps and entry points, in display order.

Containers state a number of frames that can be wrong (edit lists, cut files), and packets come in
decoding order. Two ways to find out: reading all packets without decoding them (milliseconds per
thousand frames), where packets are known to tell the truth, and decoding everything, where not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Containers whose packets carry true presentation times. Others (AVI, raw streams) carry none, or
# FFmpeg makes them up from the order of decoding.
_TRUE_TIMES = {
    *("mov", "mp4", "matroska", "webm", "mpegts", "flv", "gif", "apng", "mxf", "nut"),
}


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one video file.

    count: number of frames that can be read.
    times: int64 (count,), increasing, in units of the stream's time base; None where the file has
        no usable ones: then every reading starts at the first frame.
    keys: int64, increasing: frames at which decoding can start, 0 among them.
    announced: the number the container states; None when it states none.
    damage: why reading stops after `count` frames although there should be more; None if whole.
    """

    count: int
    times: NDArray[np.int64] | None
    keys: NDArray[np.int64]
    announced: int | None
    damage: str | None

    def entries(self, frame: int) -> Iterator[int]:
        """Entry points for `frame`: the nearest at or before it, then ever earlier ones.

        Earlier ones serve where decoding cannot start at the nearest, as in streams that refresh
        the image gradually.
        """
        nearest = int(np.searchsorted(self.keys, frame, side="right")) - 1
        step = 1
        while nearest > 0:
            yield int(self.keys[nearest])
            nearest -= step
            step *= 2
        yield 0

    def chunks_backward(self, start: int, end: int, limit: int) -> Iterator[tuple[int, int]]:
        """Ranges (low, high) that cover end..start from the back, at most `limit` frames each.

        A range starts at an entry point where there is one, so that few frames are decoded twice.
        """
        high = start + 1
        while high > end:
            low = max(end, high - limit)
            keys = self.keys[(self.keys >= low) & (self.keys < high)]
            if len(keys) and low > end:
                low = int(keys[0])
            yield low, high
            high = low


def index_by_packets(container: InputContainer, stream: VideoStream) -> FrameIndex | None:
    """The index from packets alone; None where packets do not tell the frames for sure.

    Reads the container to its end. `damage` is set when reading fails or a packet is cut.
    """
    times: list[int] = []
    keys: list[int] = []
    last_decoding_time: int | None = None
    total, damage, known = 0, None, _trusted(container, stream)
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if packet.is_corrupt:
                damage = "its data is cut or damaged"
                break
            total += 1
            if packet.is_discard:
                continue
            if packet.pts is None:
                known = False
                continue
            times.append(packet.pts)
            if packet.is_keyframe:
                keys.append(packet.pts)
            if packet.dts is not None:
                last_decoding_time = packet.dts
    except av_errors() as error:
        damage = f"its data cannot be read ({error_text(error)})"
    announced = stream.frames or None
    if announced is not None and total >= announced:
        damage = None
    if not known or not _starts_clean(times, keys):
        return None
    if damage is not None and last_decoding_time is not None:
        # Frames shown later than the last packet was decoded may have gaps before them.
        times = [time for time in times if time <= last_decoding_time]
    return _from_times(np.array(times, dtype=np.int64), keys, announced, damage)


def index_by_decoding(container: InputContainer, stream: VideoStream) -> FrameIndex:
    """The index from decoding every frame: their number, but no times, as none can be relied on.

    `damage` is set when decoding fails before the end.
    """
    count, damage = 0, None
    try:
        for _ in container.decode(stream):
            count += 1
    except av_errors() as error:
        damage = f"its data cannot be decoded ({error_text(error)})"
    start = np.zeros(1, dtype=np.int64)
    return FrameIndex(count, None, start, stream.frames or None, damage)


def av_errors() -> tuple[type[Exception], ...]:
    """What reading and decoding may raise; not all of FFmpeg's errors are OSError or ValueError."""
    from av.error import FFmpegError

    return FFmpegError, OSError, ValueError


def error_text(error: BaseException) -> str:
    """What went wrong in FFmpeg's words, without error numbers and paths."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).rstrip(".")


def _trusted(container: InputContainer, stream: VideoStream) -> bool:
    codec = stream.codec_context.codec
    if codec.name in ("vp8", "libvpx"):
        return False  # some packets hold frames that are never shown (RFC 6386, 9.1)
    return codec.intra_only or bool(_TRUE_TIMES.intersection(container.format.name.split(",")))


def _starts_clean(times: list[int], keys: list[int]) -> bool:
    """Whether the first frame shown can be decoded, and no time stamp comes twice."""
    return bool(times) and bool(keys) and min(times) == keys[0] and len(set(times)) == len(times)


def _from_times(
    times: NDArray[np.int64], keys: list[int], announced: int | None, damage: str | None
) -> FrameIndex:
    times = np.sort(times)
    entry = np.searchsorted(times, np.array(sorted(keys), dtype=np.int64))
    return FrameIndex(len(times), times, entry[entry < len(times)], announced, damage)
