"""A video that hands its frames to the tracker and keeps the last few, to draw results on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from threading import Event

from tempomask.frames import Size
from tempomask.io.sources import Frame
from tempomask.io.video import Video
from tempomask.tracking.upload import AHEAD

IndexedFrames = Iterator[tuple[int, Frame]]


class ReplayBuffer:
    """The frames of a video, each reported as it is read. A `FrameSource` for `Model.track`.

    on_read: called for every frame that the tracker reads. stop: once set, the frames end.
    """

    def __init__(self, video: Video, on_read: Callable[[], None]) -> None:
        self.video, self._on_read = video, on_read
        # On a GPU frames are read ahead of the one whose result comes.
        self._latest: deque[tuple[int, Frame]] = deque(maxlen=AHEAD + 1)
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
            self._latest.append(item)
            self._on_read()
            yield item

    def frame(self, index: int) -> Frame:
        """The frame of a result. Tracked frames are at hand; those of an earlier pass are read
        again, in one go where they are asked for in ascending order."""
        for known, frame in self._latest:
            if known == index:
                return frame
        if self._again_at != index:
            self._again = iter(self.video.frames(index))
        self._again_at = index + 1
        return next(self._again)[1]
