"""A thread beside the caller's, and a bounded queue between them: read ahead, or write behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Waits are cut into pieces of this many seconds: an untimed wait cannot be interrupted by Ctrl-C on
# every system.
_WAKE = 0.2
# A thread stuck in a device or a socket is left behind (it is a daemon) after this many seconds.
_JOIN = 5.0


class WorkerThread(Generic[Item]):
    """A thread that fills a bounded queue for its caller (`reading`), or empties it (`writing`).

    Attributes:
        dropped: How many items of a live source were thrown away.
    """

    def __init__(self, depth: int, drop: bool = False) -> None:
        self._depth, self._drop = max(1, depth), drop
        self._items: deque[Item] = deque()
        self._changed = Condition()
        self._error: BaseException | None = None
        # No more items come; no more items are taken.
        self._ended = self._stopped = False
        self.dropped = 0

    @classmethod
    def reading(
        cls, items: Generator[Item, None, None], depth: int, drop: bool = False
    ) -> WorkerThread[Item]:
        """Read `items` ahead; iterate over the thread to have them, and `close` it to stop early.

        An error in reading is raised after the items before it.

        Args:
            items: Closed by the thread.
            depth: How many may be read ahead.
            drop: For live sources; when the queue is full the oldest item is thrown away, not
                waited for.
        """
        worker = cls(depth, drop)
        worker._start("tempomask-read-ahead", worker._read, items)
        return worker

    @classmethod
    def writing(cls, work: Callable[[Item], None], depth: int) -> WorkerThread[Item]:
        """Call `work` with each item `put`, one after the other; `finish` waits for the last.

        Once `work` has raised, nothing more is done, and `put` and `finish` raise the same.

        Args:
            work: Called in the thread.
            depth: How many items may wait.
        """
        worker = cls(depth)
        worker._start("tempomask-writer", worker._work, work)
        return worker

    def put(self, item: Item) -> bool:
        """Wait for room and add an item; False, or the error, if no more are taken."""
        with self._changed:
            while len(self._items) >= self._depth and not self._stopped:
                if self._drop:
                    self._items.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(_WAKE)
            if self._error is not None:
                raise self._error
            if not self._stopped:
                self._items.append(item)
                self._changed.notify_all()
            return not self._stopped

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            while not (self._items or self._ended or self._stopped):
                self._changed.wait(_WAKE)
            if self._items and not self._stopped:
                self._changed.notify_all()
                return self._items.popleft()
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and forget what waits. Safe at any time and from any thread."""
        self._stop()
        self._thread.join(_JOIN)

    def finish(self) -> None:
        """Wait until everything put is done; the error if there was one."""
        self._end()
        while self._thread.is_alive():
            self._thread.join(_WAKE)
        if self._error is not None:
            raise self._error

    def _start(self, name: str, target: Callable[..., None], argument: object) -> None:
        self._thread = Thread(target=target, args=(argument,), name=name, daemon=True)
        self._thread.start()

    def _stop(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._stopped, self._error = True, error
            self._items.clear()
            self._changed.notify_all()

    def _end(self, error: BaseException | None = None) -> None:
        with self._changed:
            self._ended = True
            self._error = error or self._error
            self._changed.notify_all()

    def _read(self, items: Generator[Item, None, None]) -> None:
        error: BaseException | None = None
        try:
            for item in items:
                if not self.put(item):
                    break
        except BaseException as caught:
            error = caught
        finally:
            items.close()
            self._end(None if self._stopped else error)

    def _work(self, work: Callable[[Item], None]) -> None:
        try:
            for item in self:
                work(item)
        except BaseException as error:
            self._stop(error)
