"""One thread that does all work of the network, so that the page never waits for it.

Answers to a person go before a frame of tracking; of previews only the newest of each page counts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable
from concurrent.futures import Future
from threading import Condition, Thread
from typing import Any, TypeVar

from tempomask.errors import InputError

Result = TypeVar("Result")
# A step at a time; it returns the error that ended it, if one did.
Run = Generator[None, None, str | None]
Ended = Callable[[str | None], None]


class Worker:
    """Runs jobs one after the other, and the steps of one long run between them."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._jobs: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._newest: dict[Hashable, tuple[Future[Any], Callable[[], Any]]] = {}
        self._run: Run | None = None
        self._ended: Ended = lambda _error: None
        self._stopping = self._closed = self._begun = False
        self._thread = Thread(target=self._work, name="tempomask-annotate", daemon=True)
        self._thread.start()

    def submit(self, job: Callable[[], Result]) -> Future[Result]:
        """Do a job as soon as the one at hand is done."""
        future: Future[Result] = Future()
        self._put(lambda: self._jobs.append((future, job)))
        return future

    def submit_newest(self, key: Hashable, job: Callable[[], Result]) -> Future[Result]:
        """Same as `submit`, in place of the job of the same key that still waits."""
        future: Future[Result] = Future()

        def put() -> None:
            waiting = self._newest.pop(key, None)
            if waiting is not None:
                waiting[0].cancel()
            self._newest[key] = (future, job)

        self._put(put)
        return future

    def start(self, run: Run, ended: Ended) -> None:
        """Take a step of a run whenever no job waits; it handles its own errors.

        Args:
            run: Whose first step is taken even if it is stopped before.
            ended: Called in the worker's thread once another run can be started.

        Raises:
            InputError: If there is a run already.
        """
        with self._changed:
            if self._run is not None:
                raise InputError("tracking is under way; stop it first")
            self._run, self._ended, self._stopping, self._begun = run, ended, False, False
            self._changed.notify_all()

    def stop(self) -> None:
        """End the run after the step at hand, the first at least: its generator is closed."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    @property
    def running(self) -> bool:
        """Whether there is a run."""
        return self._run is not None

    def close(self) -> None:
        """End everything; jobs that wait are cancelled."""
        with self._changed:
            self._closed = self._stopping = True
            self._changed.notify_all()
        self._thread.join(10)

    def _put(self, put: Callable[[], None]) -> None:
        with self._changed:
            put()
            self._changed.notify_all()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            task()

    def _next(self) -> Callable[[], None] | None:
        """What to do now; None at the end."""
        with self._changed:
            while not (self._jobs or self._newest or self._run or self._closed):
                self._changed.wait()
            if self._closed:
                for future, _ in [*self._jobs, *self._newest.values()]:
                    future.cancel()
                return None if self._run is None else self._step
            if self._jobs:
                future, job = self._jobs.popleft()
            elif self._newest:
                future, job = self._newest.pop(next(iter(self._newest)))
            else:
                return self._step
        return lambda: _fulfil(future, job)

    def _step(self) -> None:
        run = self._run
        assert run is not None, "a step is taken of a run"
        error: str | None = None
        # One that has not begun would not notice that it is closed.
        if self._stopping and self._begun:
            run.close()
        else:
            try:
                next(run)
            except StopIteration as end:
                error = end.value
            else:
                self._begun = True
                return
        with self._changed:
            self._run = None
        self._ended(error)


def _fulfil(future: Future[Any], job: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(job())
    except BaseException as error:
        future.set_exception(error)
