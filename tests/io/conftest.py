"""Small videos whose frames carry their own number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from tempomask.results import FrameArrays, FrameResult

BITS = 8
CELL = 16


def _numbered_frame(index: int, width: int = BITS * CELL, height: int = 48) -> NDArray[np.uint8]:
    """Grey noise-free image whose top row of cells is `index` in binary, lowest bit first."""
    frame = np.full((height, width, 3), 96, dtype=np.uint8)
    frame[CELL:, :, 1] = (index * 5) % 200
    for bit in range(BITS):
        frame[:CELL, bit * CELL : (bit + 1) * CELL] = 255 if index >> bit & 1 else 0
    return frame


def _number_of(frame: NDArray[np.uint8]) -> int:
    """The number that `_numbered_frame` drew, after lossy compression."""
    row = frame[CELL // 2, CELL // 2 : BITS * CELL : CELL, 0]
    return int(sum((int(value) > 127) << bit for bit, value in enumerate(row)))


@pytest.fixture
def numbered_frame() -> Callable[..., NDArray[np.uint8]]:
    """A function that draws a number: (index, width=128, height=48)."""
    return _numbered_frame


@pytest.fixture
def numbers() -> Callable[..., list[tuple[int, int]]]:
    """A function from pairs (index, frame) to pairs (index, number drawn in the frame)."""
    return lambda pairs: [(index, _number_of(frame)) for index, frame in pairs]


@pytest.fixture
def encode(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a video file and gives its path."""

    def write(
        name: str = "clip.mp4",
        frames: int | Sequence[NDArray[np.uint8]] = 50,
        codec: str = "libx264",
        options: dict[str, str] | None = None,
        container: dict[str, str] | None = None,
        times: Sequence[int] | None = None,
        prepare: Callable[[Any], None] | None = None,
        pixels: str = "yuv420p",
    ) -> Path:
        if isinstance(frames, int):
            frames = [_numbered_frame(index) for index in range(frames)]
        path = tmp_path / name
        with av.open(str(path), "w", options=container or {}) as file:
            stream = file.add_stream(codec, rate=25, options=options or {})
            stream.height, stream.width = frames[0].shape[:2]
            stream.pix_fmt = pixels
            stream.codec_context.thread_count = 1
            stream.codec_context.time_base = Fraction(1, 25)
            if prepare:
                prepare(stream)
            for index, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts = times[index] if times else index
                frame.time_base = Fraction(1, 25)
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return path

    return write


def _result(index: int, masks: dict[int, NDArray[np.bool_]], size: tuple[int, int]) -> FrameResult:
    count = len(masks)
    logits = np.stack([np.where(mask, 4.0, -4.0) for mask in masks.values()] or [np.zeros(size)])
    return FrameResult(
        index=index,
        size=size,
        object_ids=tuple(masks),
        arrays=FrameArrays(
            logits[:count].astype(np.float32),
            np.array([5.0 if m.any() else -5.0 for m in masks.values()], np.float32),
            np.linspace(0.9, 0.5, count, dtype=np.float32),
        ),
        blocks=np.array([True, index % 2 == 0, True]),
    )


@pytest.fixture
def make_result() -> Callable[..., FrameResult]:
    """A function that gives a FrameResult with these masks: (index, {id: mask}, size)."""
    return _result


@pytest.fixture
def moving(make_result: Callable[..., FrameResult]) -> Callable[..., FrameResult]:
    """A function that gives frame `index` of two squares, ids 1 and 7; 7 is gone after frame 5."""

    def at(index: int, size: tuple[int, int] = (48, 128)) -> FrameResult:
        first, second = np.zeros(size, bool), np.zeros(size, bool)
        first[20:40, 5 + index : 25 + index] = True
        if index <= 5:
            second[18:30, 60 + index : 80 + index] = True
        return make_result(index, {1: first, 7: second}, size)

    return at
