"""A video that hands its frames to the tracker and keeps the last one, to draw its result on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from threading import Event

from tempomask.media.sources import Frame
from tempomask.media.video import Video
from tempomask.types import Size

IndexedFrames = Iterator[tuple[int, Frame]]


class WatchedVideo:
    """The frames of a video, each reported as it is read. A `FrameSource` for `Model.track`.

    on_read: called for every frame that the tracker reads. stop: once set, the frames end.
    """

    def __init__(self, video: Video, on_read: Callable[[], None]) -> None:
        self.video, self._on_read = video, on_read
        self._latest: tuple[int, Frame] | None = None
        self._again: IndexedFrames = iter(())
        self._again_at = -1
        self.stop = Event()

    @property
    def size(self) -> Size:
        return self.video.size

    @property
    def num_frames(self) -> int | None:
        return self.video.num_frames

    @property
    def seekable(self) -> bool:
        return self.video.seekable

    def frames(self, start: int = 0, end: int | None = None) -> IndexedFrames:
        return self._watch(self.video.frames(start, end))

    def reversed_frames(self, start: int, end: int = 0) -> IndexedFrames:
        return self._watch(self.video.reversed_frames(start, end))

    def _watch(self, frames: IndexedFrames) -> IndexedFrames:
        for item in frames:
            if self.stop.is_set():
                return
            self._latest = item
            self._on_read()
            yield item

    def frame(self, index: int) -> Frame:
        """The frame of a result. Tracked frames are at hand; those of an earlier pass are read
        again, in one go where they are asked for in ascending order."""
        if self._latest is not None and self._latest[0] == index:
            return self._latest[1]
        if self._again_at != index:
            self._again = iter(self.video.frames(index))
        self._again_at = index + 1
        return next(self._again)[1]
