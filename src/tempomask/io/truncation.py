"""How much of a video file is missing, by the sizes its container states.

FFmpeg ends a cut file quietly, as if it were whole. ISO base media (ISO/IEC 14496-12, 4.2: boxes),
RIFF (AVI) and EBML (RFC 8794, 6: variable-size integers; Matroska, WebM) state the size of their
outermost parts, so a cut shows.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

_SEGMENT = b"\x18\x53\x80\x67"


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
