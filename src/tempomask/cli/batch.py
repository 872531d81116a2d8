"""`tempomask batch`: `track` for each of many videos, in several processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Group, Parameter
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from tempomask.batch.jobs import Job, read_jobs
from tempomask.batch.places import Place
from tempomask.batch.pool import Fleet, Processes, run_jobs
from tempomask.batch.report import Row, write_report
from tempomask.cli import console
from tempomask.cli.options import Json, Positive
from tempomask.devices import cuda_devices
from tempomask.errors import InputError
from tempomask.errors import place as naming
from tempomask.files import FolderLock
from tempomask.progress import Bars

WORKERS = Group.create_ordered("Workers")
# Threads that read markers.
_READERS = 16


@Parameter(name="*", group=WORKERS)
@dataclass(frozen=True)
class WorkerOptions:
    """Who does the jobs.

    Args:
        workers: Processes or actors, each with the model in memory. Default: one for each CPU core
            or GPU. They share the cores out; --threads is of each.
        gpus: all, or CUDA devices such as 0,2: one worker for each.
        ray: Address of a Ray cluster, or local to start one here: workers are its actors.
        timeout: Seconds after which a job has failed.
    """

    workers: Positive | None = None
    gpus: str | None = None
    ray: str | None = None
    timeout: float | None = None

    def check(self) -> None:
        """InputError for what does not go together."""
        if self.timeout is not None and not self.timeout > 0:
            raise InputError(f"--timeout {self.timeout:g} must be more than 0 seconds")
        if self.ray is not None and self.gpus not in (None, "all"):
            raise InputError(f"--gpus {self.gpus}: with --ray the cluster chooses; give all")

    def fleet(self, jobs: int) -> tuple[Fleet[Job], int, int]:
        """The fleet, number of workers and of threads of each for so many jobs."""
        from tempomask.cli.batch_job import start

        own = int(os.environ.get("OMP_NUM_THREADS") or 0)
        if self.ray not in (None, "local"):
            from tempomask.batch.ray_fleet import RayFleet

            threads = own or 1
            fleet = RayFleet(start, self.ray, threads, self.workers, self.gpus is not None)
            return fleet, min(fleet.workers, jobs), threads
        devices = cuda_devices(self.gpus) if self.gpus else []
        count = max(1, min(self.workers or len(devices) or _workers(), jobs))
        threads = own or max(1, _cores() // count)
        if self.ray is None:
            return Processes(start, threads, devices), count, threads
        from tempomask.batch.ray_fleet import RayFleet

        return RayFleet(start, self.ray, threads, count, bool(devices)), count, threads


def batch(
    jobs: str,
    /,
    *,
    out: str,
    each: Annotated[list[str] | None, Parameter(n_tokens=1)] = None,
    shard: str | None = None,
    retry_failed: bool = False,
    workers: WorkerOptions = WorkerOptions(),
    as_json: Json = False,
) -> int:
    """Track through many videos: JOBS is a folder, a pattern, or a JSONL or CSV file.

    `tempomask batch videos/ --each everything=true --out results`

    `tempomask batch jobs.jsonl --each model=sam2.1-tiny --each checkpoint=tiny.pt --out results`

    Columns of a file are source, out and the options of track: {"source": "a.mp4", "point": [655,
    420], "end": 60}. A video of a folder takes its prompts from a JSON file of the same name beside
    it. Called again, it skips what is done and goes on with what was stopped. The exit code is 1 if
    a job failed.

    Args:
        jobs: The jobs.
        out: Folder of all results, or a place that fsspec can write to, such as s3://bucket/night;
            each job has a folder in it, named after its video.
        each: NAME=VALUE, an option of every job that does not name it itself.
        shard: Only part 2/8 of the jobs, for one of eight machines that write to one place.
        retry_failed: Do again what failed before.
    """
    workers.check()
    from tempomask.cli.batch_job import asked_of, columns

    place, part = Place.of(out), None
    if shard is not None:
        from tempomask.evaluation.vos import Shard

        part = Shard.of(shard)
    listed = read_jobs(jobs, place, columns(), each or ())
    suffix = "" if part is None else f"-{part.index}-of-{part.count}"
    listed = listed if part is None else listed[part.index - 1 :: part.count]
    for job in listed:
        with naming(job.where):
            asked_of(job).check()
    place.check()
    lock = FolderLock(place.folder, f".tempomask{suffix}.lock")
    try:
        rows, totals = _do(listed, workers, retry_failed)
        write_report(place, rows, totals, suffix)
    finally:
        lock.release()
    return _conclude(f"{place}/report{suffix}.html", rows, totals, as_json)


def _do(
    jobs: Sequence[Job], workers: WorkerOptions, retry_failed: bool
) -> tuple[list[Row], dict[str, Any]]:
    """Do what is not done: a row for each job, and the totals."""
    from tempomask.cli.run import stop_on_interrupt

    rows = {job.name: row for job, row in _all_earlier(jobs, retry_failed) if row is not None}
    waiting = [job for job in jobs if job.name not in rows]
    fleet, count, threads = workers.fleet(len(waiting)) if waiting else (None, 0, 0)
    began, frames = time.perf_counter(), 0
    with _table(rows, len(jobs)) as show, stop_on_interrupt() as stop:
        ended = run_jobs(waiting, fleet, count, workers.timeout, stop.is_set) if fleet else ()
        for outcome in ended:
            job, report, error = outcome.job, outcome.report, outcome.error
            if error is not None:
                with suppress(InputError, OSError):  # of a folder that cannot be written
                    job.mark(error=error)
            frames += report["frames"] if report else 0
            state = "failed" if report is None else "stopped" * report["interrupted"] or "done"
            rows[job.name] = Row(job, state, report, error)
            show(frames / (time.perf_counter() - began))
    seconds = time.perf_counter() - began
    every = [rows.get(job.name, Row(job, "stopped")) for job in jobs]
    states = Counter(row.state for row in every)
    totals = {name: states[name] for name in ("done", "skipped", "failed", "stopped")}
    speed = {"frames": frames, "seconds": round(seconds, 3), "fps": round(frames / seconds, 3)}
    return every, {**totals, **speed, "workers": count, "threads": threads}


def _all_earlier(jobs: Sequence[Job], retry_failed: bool) -> Iterator[tuple[Job, Row | None]]:
    """Each job with its row in an earlier run; from far away many markers are read at once."""

    def look(part: Sequence[Job]) -> list[tuple[Job, Row | None]]:
        return [(job, _earlier(job, retry_failed)) for job in part]

    with ThreadPoolExecutor(_READERS) as readers:
        for found in readers.map(look, (jobs[k : k + 64] for k in range(0, len(jobs), 64))):
            yield from found


def _earlier(job: Job, retry_failed: bool) -> Row | None:
    """The row of a job that ended in an earlier run; None if it is to be done."""
    marker = job.marker()
    if marker is None or (marker["error"] is not None and retry_failed):
        return None
    state = "skipped" if marker["error"] is None else "failed"
    return Row(job, state, marker["report"], marker["error"])


def _cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers() -> int:
    import torch

    return 1 if torch.cuda.is_available() else _cores()


@contextmanager
def _table(rows: dict[str, Row], total: int) -> Iterator[Any]:
    """Jobs done and failed, frames a second and time left; yields what shows the rows' state."""
    bars = Bars(
        TextColumn("{task.completed}/{task.total} jobs"),
        BarColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TextColumn("{task.fields[fps]}"),
        TimeRemainingColumn(),
    )
    ended = len(rows)
    task = bars.add_task("", total=total, completed=ended, failed=_failed(rows), fps="")

    def show(fps: float) -> None:
        speed = f"{fps:.1f} FPS"
        bars.update(task, completed=len(rows), failed=_failed(rows), fps=speed)

    with bars:
        yield show


def _failed(rows: dict[str, Row]) -> int:
    return sum(row.state == "failed" for row in rows.values())


def _conclude(page: str, rows: Sequence[Row], totals: dict[str, Any], as_json: bool) -> int:
    if as_json:
        console.print_json({**totals, "jobs": [row.told() for row in rows]})
    else:
        counts = ", ".join(f"{totals[name]} {name}" for name in ("done", "skipped", "failed"))
        stopped = f", {totals['stopped']} stopped; call it again to go on" * bool(totals["stopped"])
        frames = f"{totals['frames']} frames in {totals['seconds']:.1f} s, {totals['fps']:.1f} FPS"
        console.out.print(f"{counts}{stopped}; {frames}")
        console.out.print(f"report   {page}", soft_wrap=True)
    for row in rows:
        if row.state == "failed":
            console.note(f"failed: {row.job.name}: {row.error}")
    if totals["failed"] and not as_json:
        console.note("--retry-failed does them again")
    if totals["stopped"]:
        return console.INTERRUPTED
    return console.FAILED if totals["failed"] else 0
