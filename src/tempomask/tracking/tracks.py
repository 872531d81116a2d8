"""Results of a video that is opened for them, and closed with them."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from tempomask.frames import FrameSource
from tempomask.io.video import Video, open_video
from tempomask.tracking.base import VideoSession

Result = TypeVar("Result")
# To be told of the session whose results come.
Opened = Callable[[VideoSession], None]


class Tracks(Iterator[Result]):
    """The results of a video, frame by frame, in order.

    A video that was opened for them is closed after the last, by an error, and by `close`.

    Args:
        source: Same as in `Model.track`.
        begin: Gives the results of its frames, and tells of their session.
    """

    _opened: Video | None = None

    def __init__(
        self, source: Any, begin: Callable[[FrameSource, Opened], Generator[Result, None, None]]
    ) -> None:
        self._sessions: list[VideoSession] = []
        if not isinstance(source, FrameSource):
            source = self._opened = open_video(source)
        try:
            self._results = begin(source, self._sessions.append)
        except BaseException:
            self._close_video()
            raise

    def __next__(self) -> Result:
        try:
            return next(self._results)
        except BaseException:
            self._close_video()
            raise

    def state(self) -> bytes | None:
        """What is needed to go on after the last result, given to the same call as its `state`.

        None where there is nothing yet: before the forward pass of direction "both".
        """
        begun = [session for session in self._sessions if session.index is not None]
        return begun[0].state() if begun else None

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
