"""One file of several images as a video: TIFF stacks and animations."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

from tempomask.errors import InputError
from tempomask.frames import Frame
from tempomask.io.images import bit_depth, image_size, opened, page_count, read_pages
from tempomask.io.sources import FrameStream, IndexedVideo


class ImagePages(IndexedVideo):
    """The images in one file: a TIFF stack, or an animated WebP, PNG or AVIF.

    Args:
        path: Of the file.

    Raises:
        InputError: If the file is not readable.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self.path, self.num_frames, self.size = path, page_count(path), image_size(path)
        with opened(path) as image:
            image.load()
            duration = image.info.get("duration")
        self.fps = 1000 / duration if duration else None

    @cached_property
    def _bits(self) -> int | None:
        return bit_depth([self.path])

    def _frame(self, index: int) -> Frame:
        # Opened anew for each: not every animation can be wound back.
        return next(self._read(index, index + 1))[1]

    def _read(self, start: int, end: int | None) -> FrameStream:
        pages = range(self.num_frames or 0)[start:end]
        for index, frame in zip(pages, read_pages(self.path, pages, self._bits), strict=True):
            if frame.shape[:2] != self.size:
                raise InputError(
                    f"page {index} of {self.name} has {frame.shape[1]} x {frame.shape[0]} pixels,"
                    f" the first of {self.num_frames} has {self.size[1]} x {self.size[0]}; save"
                    " those of one size in a file of their own"
                )
            yield index, frame
