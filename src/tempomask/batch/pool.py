"""A pool of processes in which a dead one costs one job.

`concurrent.futures` gives all its jobs up when one process dies; here a job whose process died is
done once more in a fresh one, and the others go on.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from tempomask.errors import InputError

J = TypeVar("J")
# Seconds between two looks at the clock while nothing ends.
_TICK = 0.2
# Seconds that a process has to stop, after the frame at hand.
_GRACE = 60.0


@dataclass(frozen=True)
class Outcome(Generic[J]):
    """How a job ended: with a report or an error."""

    job: J
    report: dict[str, Any] | None = None
    error: str | None = None

    @property
    def died(self) -> bool:
        """Whether its process died instead."""
        return self.report is None and self.error is None


class _Worker(Generic[J]):
    """A process that does one job after the other.

    Args:
        start: Called in the process, gives the function that does a job.
        threads: That the process computes with.
    """

    def __init__(self, start: Callable[[], Callable[[J], Any]], threads: int) -> None:
        # A forked process would share locks and threads of libraries with this one.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, start, threads), daemon=True)
        self.process.start()
        theirs.close()
        self.job: J | None = None
        self.since = 0.0

    def give(self, job: J) -> None:
        """Let it do a job."""
        self.job, self.since = job, time.monotonic()
        try:
            self.connection.send(job)
        except OSError:  # it died; its end is seen like any other
            self.process.join(_TICK)

    def died(self) -> str:
        """How it died, for a message."""
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process died of {name}{' (out of memory?)' * (name == 'SIGKILL')}"
        return f"its process ended with exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.join()
        self.connection.close()


def run_jobs(
    jobs: Sequence[J],
    start: Callable[[], Callable[[J], dict[str, Any]]],
    workers: int,
    threads: int,
    timeout: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome[J]]:
    """Do jobs in processes; their outcomes as they end.

    Args:
        jobs: That can be pickled.
        start: Called once in each process, gives the function that does a job and reports; an error
            it raises fails the job alone.
        workers: Number of processes.
        threads: Of each.
        timeout: Seconds after which a job has failed.
        stopped: Asked again and again; once true, processes stop after the frame at hand.
    """
    waiting, again = deque(jobs), set[int]()
    pool: list[_Worker[J]] = []
    try:
        while (waiting or any(each.job is not None for each in pool)) and not stopped():
            while len(pool) < min(workers, len(pool) + len(waiting)) and _all_busy(pool):
                pool.append(_Worker(start, threads))
                pool[-1].give(waiting.popleft())
            for worker in pool:
                if worker.job is None and waiting:
                    worker.give(waiting.popleft())
            wait([end for w in pool for end in (w.connection, w.process.sentinel)], _TICK)
            for worker in list(pool):
                outcome = _look(worker, timeout)
                if not worker.process.is_alive() and worker.job is None:
                    pool.remove(worker)
                if outcome is None:
                    continue
                if not outcome.died:
                    yield outcome
                elif id(outcome.job) in again:
                    yield Outcome(outcome.job, error=f"{worker.died()}, twice")
                else:
                    again.add(id(outcome.job))
                    pool.append(_Worker(start, threads))
                    pool[-1].give(outcome.job)
        yield from _stop(pool)
    finally:
        for worker in pool:
            worker.kill()


def _all_busy(pool: Sequence[_Worker[Any]]) -> bool:
    return all(each.job is not None for each in pool)


def _look(worker: _Worker[J], timeout: float | None) -> Outcome[J] | None:
    """What has come of a worker's job: None if it goes on, neither report nor error if it died."""
    job = worker.job
    if job is None:
        return None
    alive = worker.process.is_alive()
    try:
        # What a process sent before it died counts.
        if worker.connection.poll():
            report, error = worker.connection.recv()
            worker.job = None
            return Outcome(job, report, error)
    except (EOFError, OSError):
        worker.process.join()
        alive = False
    if not alive:
        worker.job = None
        return Outcome(job)
    if timeout is not None and time.monotonic() - worker.since > timeout:
        worker.kill()
        worker.job = None
        return Outcome(job, error=f"took longer than {timeout:g} s")
    return None


def _stop(pool: Sequence[_Worker[J]]) -> Iterator[Outcome[J]]:
    """Stop the jobs at hand as Ctrl-C stops one, and wait for what they have to say."""
    busy = [worker for worker in pool if worker.job is not None]
    for worker in busy:
        worker.process.terminate()
    until = time.monotonic() + _GRACE
    for worker in busy:
        job = worker.job
        assert job is not None
        try:
            if worker.connection.poll(max(0.0, until - time.monotonic())):
                yield Outcome(job, *worker.connection.recv())
        except (EOFError, OSError):
            continue


def _serve(connection: Connection, start: Callable[[], Callable[[Any], Any]], threads: int) -> None:
    """The life of a process: take a job, do it, tell."""
    # Ctrl-C reaches all processes of a terminal; the first one says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    do = start()
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer = do(job), None
        except InputError as error:
            answer = None, str(error)
        except Exception as error:
            text = " ".join(str(error).split())
            answer = None, f"{type(error).__name__}: {text}"
        connection.send(answer)
