"""Work done by a thread, in order, from a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Waits are cut into pieces of this many seconds, so that Ctrl-C gets through on every system.
_WAKE = 0.2


class WriterThread(Generic[Item]):
    """Call `work` with each submitted item, in a thread, one after the other.

    At most `depth` items wait; `submit` waits for room. Once `work` has raised, nothing more is
    done, and the exception is raised by the next `submit` or by `finish`.
    """

    def __init__(self, work: Callable[[Item], None], depth: int) -> None:
        self._work = work
        self._depth = max(1, depth)
        self._queue: deque[Item] = deque()
        self._changed = Condition()
        self._error: BaseException | None = None
        self._ending = False
        self._thread = Thread(target=self._run, name="tempomask-writer", daemon=True)
        self._thread.start()

    def submit(self, item: Item) -> None:
        """Queue one item."""
        with self._changed:
            while len(self._queue) >= self._depth and self._error is None:
                self._changed.wait(_WAKE)
            if self._error is not None:
                raise self._error
            self._queue.append(item)
            self._changed.notify_all()

    def finish(self) -> None:
        """Wait until everything submitted is done, and end the thread."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        while self._thread.is_alive():
            self._thread.join(_WAKE)
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._queue and not self._ending:
                    self._changed.wait()
                if not self._queue:
                    return
                item = self._queue.popleft()
                self._changed.notify_all()
            try:
                self._work(item)
            except BaseException as error:
                with self._changed:
                    self._error = error
                    self._queue.clear()
                    self._changed.notify_all()
                return
