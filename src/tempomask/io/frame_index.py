"""Which frames a video file holds: number, time stamps, entry points, and whether it is cut short.

Containers state a number of frames that can be wrong (edit lists, cut files), and packets come in
decoding order. Two ways to find out: reading all packets without decoding them (milliseconds per
thousand frames), where packets are known to tell the truth, and decoding everything, where not.

FFmpeg ends a cut file quietly, as if it were whole. ISO base media (ISO/IEC 14496-12, 4.2: boxes),
RIFF (AVI) and EBML (RFC 8794, 6: variable-size integers; Matroska, WebM) state the size of their
outermost parts, so a cut shows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tempomask.io.containers import av_errors, error_text

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

# Begins the one large part of an EBML file.
_SEGMENT = b"\x18\x53\x80\x67"

# Containers whose packets carry true presentation times. Others (AVI, raw streams) carry none, or
# FFmpeg makes them up from the order of decoding.
_TRUE_TIMES = {
    *("mov", "mp4", "matroska", "webm", "mpegts", "flv", "gif", "apng", "mxf", "nut"),
}


@dataclass(frozen=True)
class FrameIndex:
    """The frames of one video file.

    Attributes:
        count: Number of frames that can be read.
        times: int64 (count,), increasing, in units of the stream's time base; None where the file
            has no usable ones: then every reading starts at the first frame.
        keys: int64, increasing: frames at which decoding can start, 0 among them.
        announced: The number the container states; None when it states none.
        damage: Why reading stops after `count` frames although there should be more; None if whole.
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


def varying_times(index: FrameIndex, stream: VideoStream) -> NDArray[np.float64] | None:
    """Seconds of each frame after the first; None where they are evenly spaced, or not known.

    Times may be off by one unit of the stream's clock, as rounding makes them.
    """
    if index.times is None or len(index.times) < 3 or stream.time_base is None:
        return None
    after = index.times - index.times[0]
    even = np.linspace(0, after[-1], len(after))
    return None if np.abs(after - even).max() <= 1 else after * float(stream.time_base)


def missing_frames(times: NDArray[np.float64]) -> tuple[int, int] | None:
    """How many frames are missing by their times, and after which; None if there is no telling.

    Lost packets leave few gaps, of whole steps, among frames that are evenly spaced otherwise.
    """
    steps = np.diff(times)
    shares = steps / np.median(steps)
    gaps = np.flatnonzero(shares.round() > 1)
    if not len(gaps) or 4 * len(gaps) > len(steps) or len(gaps) > max(3, len(steps) // 20):
        return None
    even = np.abs(shares - shares.round()).max() < 0.1
    return (int(shares[gaps].round().sum()) - len(gaps), int(gaps[0])) if even else None


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


def missing_bytes(path: str | Path) -> int:
    """Bytes by which the file is shorter than its container says; 0 if whole or not known."""
    length = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"):
            stated = _end_of_boxes(file, length)
        elif head[:4] == b"RIFF":
            stated = _end_of_riff(file, length)
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            stated = _end_of_segment(file)
        else:
            return 0
    return max(0, stated - length)


def _end_of_boxes(file: BinaryIO, length: int) -> int:
    position = 0
    while position + 8 <= length:
        file.seek(position)
        header = file.read(16)
        size = int.from_bytes(header[:4], "big")
        if size == 1:
            size = int.from_bytes(header[8:16], "big")
        if size < 8:  # 0: the box reaches to the end of the file
            return length
        position += size
    return position


def _end_of_riff(file: BinaryIO, length: int) -> int:
    position = 0
    while position + 8 <= length:
        file.seek(position)
        header = file.read(8)
        size = int.from_bytes(header[4:8], "little")
        if header[:4] != b"RIFF" or size == 0:
            return length
        position += 8 + size
    return position


def _end_of_segment(file: BinaryIO) -> int:
    file.seek(4)
    header_size = _variable_size(file)
    if header_size is None:
        return 0
    file.seek(header_size, os.SEEK_CUR)
    if file.read(4) != _SEGMENT:
        return 0
    size = _variable_size(file)
    return 0 if size is None else file.tell() + size


def _variable_size(file: BinaryIO) -> int | None:
    """The EBML size at the file's position; None for the reserved 'unknown'."""
    first = file.read(1)
    if not first or first[0] == 0:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(bytes([first[0] & (0xFF >> width)]) + file.read(width - 1), "big")
    return None if value == (1 << 7 * width) - 1 else value
