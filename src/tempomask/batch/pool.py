"""Jobs given to workers one by one, so that a worker that dies costs one job.

`concurrent.futures` gives all its jobs up when one process dies; here a job whose worker died is
done once more by a fresh one, and the others go on. Workers are processes here, and actors of a
cluster in `ray_fleet.py`; both get the same jobs and tell the same of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar

from tempomask.errors import InputError

J = TypeVar("J")
Answer = tuple[dict[str, Any] | None, str | None]
# Called in a worker, gives the function that does a job and reports.
Start = Callable[[], Callable[[J], dict[str, Any]]]
# Seconds between two looks at the clock while nothing ends.
TICK = 0.2
# Seconds that a worker has to stop, after the frame at hand.
_GRACE = 60.0


class WorkerDied(Exception):
    """A worker is gone with its job; the text says how."""


@dataclass(frozen=True)
class Outcome(Generic[J]):
    """How a job ended: with a report or an error."""

    job: J
    report: dict[str, Any] | None = None
    error: str | None = None


class Worker(ABC, Generic[J]):
    """Does one job after the other.

    Attributes:
        job: At hand, or the last one.
    """

    job: J
    _since: float

    def give(self, job: J) -> None:
        """Let it do a job."""
        self.job, self._since = job, time.monotonic()
        self._send(job)

    def took(self) -> float:
        """Seconds since it began the job."""
        return time.monotonic() - self._since

    @abstractmethod
    def _send(self, job: J) -> None: ...

    @abstractmethod
    def answer(self) -> Answer:
        """Report or error of the job, once `Fleet.wait` has named it; WorkerDied instead."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to end after the frame at hand."""

    @abstractmethod
    def kill(self) -> None:
        """End it at once. Called once for every worker, also for a dead one."""


class Fleet(ABC, Generic[J]):
    """Where workers come from."""

    @abstractmethod
    def start(self) -> Worker[J]:
        """A new worker."""

    @abstractmethod
    def wait(self, workers: Sequence[Worker[J]], seconds: float) -> Sequence[Worker[J]]:
        """Those that have an answer or died; none if `seconds` pass before."""

    def close(self) -> None:
        """Let go of what the workers shared."""


def run_jobs(
    jobs: Sequence[J],
    fleet: Fleet[J],
    workers: int,
    timeout: float | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome[J]]:
    """Do jobs; their outcomes as they end.

    Args:
        jobs: That can be pickled.
        fleet: Of the workers.
        workers: Number of them.
        timeout: Seconds after which a job has failed.
        stopped: Asked again and again; once true, workers stop after the frame at hand.
    """
    waiting, again = deque(jobs), set[int]()
    busy, idle = dict[Worker[J], None](), list[Worker[J]]()
    try:
        while (waiting or busy) and not stopped():
            while waiting and len(busy) < workers:
                job = waiting.popleft()
                if idle and id(job) in again:  # for a fresh one
                    idle.pop().kill()
                worker = idle.pop() if idle and id(job) not in again else fleet.start()
                busy[worker] = None
                worker.give(job)
            for worker in fleet.wait(list(busy), TICK):
                del busy[worker]
                try:
                    yield Outcome(worker.job, *worker.answer())
                    idle.append(worker)
                except WorkerDied as death:
                    worker.kill()
                    if id(worker.job) in again:
                        yield Outcome(worker.job, error=f"{death}, twice")
                    else:
                        again.add(id(worker.job))
                        waiting.appendleft(worker.job)
            for worker in [w for w in busy if timeout is not None and w.took() > timeout]:
                worker.kill()
                del busy[worker]
                yield Outcome(worker.job, error=f"took longer than {timeout:g} s")
        yield from _stop(fleet, busy)
    finally:
        for worker in (*busy, *idle):
            worker.kill()
        fleet.close()


def _stop(fleet: Fleet[J], busy: dict[Worker[J], None]) -> Iterator[Outcome[J]]:
    """Stop the jobs at hand as Ctrl-C stops one, and wait for what they have to say."""
    for worker in busy:
        worker.stop()
    until, silent = time.monotonic() + _GRACE, list(busy)
    while silent and (left := until - time.monotonic()) > 0:
        for worker in fleet.wait(silent, left):
            silent.remove(worker)
            try:
                yield Outcome(worker.job, *worker.answer())
            except WorkerDied:
                continue


def answer_of(do: Callable[[J], dict[str, Any]], job: J) -> Answer:
    """Do a job: its report, or in one line why there is none."""
    try:
        return do(job), None
    except InputError as error:
        return None, str(error)
    except Exception as error:
        text = " ".join(str(error).split())
        return None, f"{type(error).__name__}: {text}"


class Processes(Fleet[J]):
    """Processes of this machine.

    Args:
        start: Called once in each.
        threads: That each computes with.
        devices: CUDA devices by the name that CUDA_VISIBLE_DEVICES has for them, one for each
            worker in turn; none leaves the choice to the job.
    """

    def __init__(self, start: Start[J], threads: int, devices: Sequence[str] = ()) -> None:
        self._start, self._environment = start, {"OMP_NUM_THREADS": str(threads)}
        self._used = Counter(dict.fromkeys(devices, 0))

    def start(self) -> Worker[J]:
        """A worker on the device that has the fewest."""
        device = min(self._used, key=self._used.__getitem__, default=None)
        environment = dict(self._environment)
        if device is not None:
            self._used[device] += 1
            environment["CUDA_VISIBLE_DEVICES"] = device
        taken = () if device is None else (device,)
        return _Process(self._start, environment, partial(self._used.subtract, taken))

    def wait(self, workers: Sequence[Worker[J]], seconds: float) -> Sequence[Worker[J]]:
        """See `Fleet`; a process that dies closes its end, which is seen as an answer is."""
        ends: dict[Any, Worker[J]] = {w.connection: w for w in workers if isinstance(w, _Process)}
        return [ends[end] for end in wait(list(ends), seconds)]


class _Process(Worker[J]):
    def __init__(
        self, start: Start[J], environment: dict[str, str], release: Callable[[], None]
    ) -> None:
        # A forked process would share locks and threads of libraries with this one.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        arguments = theirs, start, environment
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        self.process.start()
        theirs.close()
        self._release = release

    def _send(self, job: J) -> None:
        try:
            self.connection.send(job)
        except OSError:  # it died; its end is seen like any other
            self.process.join(TICK)

    def answer(self) -> Answer:
        try:
            # What a process sent before it died counts.
            return self.connection.recv()
        except (EOFError, OSError):
            raise WorkerDied(self._death()) from None

    def _death(self) -> str:
        self.process.join()
        code = self.process.exitcode or 0
        if code < 0:
            name = signal.Signals(-code).name
            return f"its process died of {name}{' (out of memory?)' * (name == 'SIGKILL')}"
        return f"its process ended with exit code {code}"

    def stop(self) -> None:
        self.process.terminate()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()
        self._release()


def _serve(connection: Connection, start: Start[Any], environment: dict[str, str]) -> None:
    """The life of a process: take a job, do it, tell."""
    # Ctrl-C reaches all processes of a terminal; the first one says what is to be done.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(environment)
    do = start()
    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        connection.send(answer_of(do, job))
