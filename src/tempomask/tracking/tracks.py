"""Results of a video that is opened for them, and closed with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tempomask.frames import FrameSource
from tempomask.io.video import Video, open_video
from tempomask.results import FrameResult
from tempomask.tracking.passes import Results


class Tracks(Iterator[FrameResult]):
    """The results of a video, frame by frame, in order.

    A video that was opened for them is closed after the last, by an error, and by `close`.
    """

    _opened: Video | None = None

    def __init__(self, source: Any, begin: Callable[[FrameSource], Results]) -> None:
        """source: as in `Model.track`. begin: gives the results of its frames."""
        if not isinstance(source, FrameSource):
            source = self._opened = open_video(source)
        try:
            self._results = begin(source)
        except BaseException:
            self._close_video()
            raise

    def __next__(self) -> FrameResult:
        try:
            return next(self._results)
        except BaseException:
            self._close_video()
            raise

    def close(self) -> None:
        """Stop early and let go of the video."""
        try:
            self._results.close()
        finally:
            self._close_video()

    def _close_video(self) -> None:
        video, self._opened = self._opened, None
        if video is not None:
            video.close()

    def __del__(self) -> None:
        # A generator that was never started would not close anything.
        self._close_video()
