"""An mp4 written frame by frame: H.264 in yuv420p, which every player takes."""

from __future__ import annotations

import os
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tempomask.errors import InputError
from tempomask.files import part_path
from tempomask.frames import Size
from tempomask.io.sources import Frame

# For sources without a clock: the rate of DAVIS and of cinema.
DEFAULT_FPS = 24.0

# The encoders PyAV may be built with, best first, and what makes them fast at good quality.
_ENCODERS: dict[str, dict[str, str]] = {
    "libx264": {"preset": "veryfast", "crf": "20"},
    "libopenh264": {"b": "6M"},
    "mpeg4": {"q": "4"},
}


class VideoWriter:
    """Write RGB frames, uint8 (H, W, 3), to an mp4. Use as a context manager, or call `close`.

    The file gets its name when it is closed and is whole then, however few frames it holds; with
    none it is not made. Odd sizes are padded by a row or column of the edge.

    Raises InputError for a frame of another size than `size` (H, W).
    """

    def __init__(self, path: str | Path, size: Size, fps: float | None = None) -> None:
        self.path = Path(path)
        self.size = size
        self.num_frames = 0
        self._fps = Fraction(fps or DEFAULT_FPS).limit_denominator(100_000)
        self._part = part_path(self.path)
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: Frame) -> None:
        """Append one frame."""
        import av

        if frame.shape != (*self.size, 3):
            raise InputError(
                f"frame of shape {frame.shape} in a video of {self.size[1]} x {self.size[0]}"
                " pixels; all frames must be of one size"
            )
        container, stream = self._opened()
        height, width = self.size
        if height % 2 or width % 2:
            frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        image = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        # Players take images without a note on colour as BT.709.
        image = image.reformat(format="yuv420p", dst_colorspace="ITU709")
        image.pts, image.time_base = self.num_frames, 1 / self._fps
        container.mux(stream.encode(image))
        self.num_frames += 1

    def close(self) -> None:
        """Finish the file and give it its name."""
        if self._container is None:
            return
        try:
            self._container.mux(self._stream.encode())
            self._container.close()
            os.replace(self._part, self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Throw away what has not been closed."""
        container, self._container = self._container, None
        if container is not None:
            with suppress(OSError):  # a full disk; the file goes anyway
                container.close()
        self._part.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _opened(self) -> tuple[Any, Any]:
        """The container and its stream, opened with the first frame."""
        import av

        if self._container is not None:
            return self._container, self._stream
        name = next((name for name in _ENCODERS if name in av.codecs_available), None)
        if name is None:
            raise InputError("this PyAV has no H.264 or MPEG-4 encoder; install the wheel of av")
        # The part's name does not end in .mp4, so the format is named.
        self._container = av.open(str(self._part), "w", format="mp4")
        stream = self._container.add_stream(name, rate=self._fps, options=dict(_ENCODERS[name]))
        height, width = self.size
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = 1 / self._fps
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # 16 to 235
        self._stream = stream
        return self._container, stream
