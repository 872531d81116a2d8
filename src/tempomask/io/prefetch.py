"""Running ahead: an iterator read by a thread into a bounded queue."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

Item = TypeVar("Item")

# Waits are cut into pieces of this many seconds: an untimed wait cannot be interrupted by Ctrl-C on
# every system.
_WAKE = 0.2
# A thread stuck in a device or a socket is left behind (it is a daemon) after this many seconds.
_JOIN = 5.0


class Prefetcher(Generic[Item]):
    """Iterate over `items`, which a thread reads up to `depth` ahead.

    An exception raised by `items` is raised here after the items before it. `close` stops the
    thread, which closes `items`; it is safe to call at any time and from any thread.

    drop: for live sources; when the queue is full the oldest item is thrown away, not waited for.
    dropped: how many were.
    """

    def __init__(self, items: Generator[Item, None, None], depth: int, drop: bool = False) -> None:
        self._items = items
        self._depth = max(1, depth)
        self._drop = drop
        self._queue: deque[Item] = deque()
        self._changed = Condition()
        self._error: BaseException | None = None
        self._finished = False
        self._stopped = False
        self.dropped = 0
        self._thread = Thread(target=self._read, name="tempomask-read-ahead", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        with self._changed:
            while not self._queue and not self._finished and not self._stopped:
                self._changed.wait(_WAKE)
            if self._queue and not self._stopped:
                item = self._queue.popleft()
                self._changed.notify_all()
                return item
            error, self._error = self._error, None
        if error is not None:
            raise error
        raise StopIteration

    def close(self) -> None:
        """Stop the thread and forget what it has read."""
        with self._changed:
            self._stopped = True
            self._queue.clear()
            self._error = None
            self._changed.notify_all()
        self._thread.join(_JOIN)

    def _read(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as caught:
            error = caught
        finally:
            self._items.close()
            with self._changed:
                self._error = None if self._stopped else error
                self._finished = True
                self._changed.notify_all()

    def _put(self, item: Item) -> bool:
        """Queue one item; False when reading is to stop."""
        with self._changed:
            while len(self._queue) >= self._depth and not self._stopped:
                if self._drop:
                    self._queue.popleft()
                    self.dropped += 1
                else:
                    self._changed.wait(_WAKE)
            if self._stopped:
                return False
            self._queue.append(item)
            self._changed.notify_all()
            return True
