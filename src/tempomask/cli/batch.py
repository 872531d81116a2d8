"""`tempomask batch`: `track` for each of many videos, in several processes."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.progress import BarColumn, TextColumn, TimeRemainingColumn

from tempomask.batch.jobs import Job, read_jobs
from tempomask.batch.report import Row, write_report
from tempomask.cli import console
from tempomask.cli.options import Json, Positive
from tempomask.errors import InputError, place
from tempomask.files import FolderLock, make_folder
from tempomask.progress import Bars


def batch(
    jobs: str,
    /,
    *,
    out: Path,
    each: Annotated[list[str] | None, Parameter(n_tokens=1)] = None,
    workers: Positive | None = None,
    timeout: float | None = None,
    retry_failed: bool = False,
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
        out: Folder of all results; each job has a folder in it, named after its video.
        each: NAME=VALUE, an option of every job that does not name it itself.
        workers: Processes, each with the model in memory. Default: one for each CPU core, one with
            a GPU. They share the cores out; --threads is of each.
        timeout: Seconds after which a job has failed.
        retry_failed: Do again what failed before.
    """
    if timeout is not None and not timeout > 0:
        raise InputError(f"--timeout {timeout:g} must be more than 0 seconds")
    from tempomask.cli.batch_job import asked_of, columns

    listed = read_jobs(jobs, out, columns(), each or ())
    for job in listed:
        with place(job.where):
            asked_of(job).check()
    lock = FolderLock(make_folder(out))
    try:
        rows, totals = _do(listed, workers, timeout, retry_failed)
        write_report(out, rows, totals)
    finally:
        lock.release()
    return _conclude(out, rows, totals, as_json)


def _do(
    jobs: Sequence[Job], workers: int | None, timeout: float | None, retry_failed: bool
) -> tuple[list[Row], dict[str, Any]]:
    """Do what is not done: a row for each job, and the totals."""
    from tempomask.batch.pool import run_jobs
    from tempomask.cli.batch_job import start, write_marker
    from tempomask.cli.run import stop_on_interrupt

    rows = {job.out: row for job in jobs if (row := _earlier(job, retry_failed)) is not None}
    waiting = [job for job in jobs if job.out not in rows]
    count = max(1, min(workers or _workers(), len(waiting)))
    threads = int(os.environ.get("OMP_NUM_THREADS") or max(1, _cores() // count))
    began, frames = time.perf_counter(), 0
    with _table(rows, len(jobs)) as show, stop_on_interrupt() as stop:
        for outcome in run_jobs(waiting, start, count, threads, timeout, stop.is_set):
            job, report, error = outcome.job, outcome.report, outcome.error
            if error is not None:
                with suppress(InputError, OSError):  # of a folder that cannot be written
                    write_marker(job, error=error)
            frames += report["frames"] if report else 0
            state = "failed" if report is None else "stopped" * report["interrupted"] or "done"
            rows[job.out] = Row(job, state, report, error)
            show(frames / (time.perf_counter() - began))
    seconds = time.perf_counter() - began
    every = [rows.get(job.out, Row(job, "stopped")) for job in jobs]
    states = Counter(row.state for row in every)
    totals = {name: states[name] for name in ("done", "skipped", "failed", "stopped")}
    speed = {"frames": frames, "seconds": round(seconds, 3), "fps": round(frames / seconds, 3)}
    return every, {**totals, **speed, "workers": count, "threads": threads}


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
def _table(rows: dict[Path, Row], total: int) -> Iterator[Any]:
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


def _failed(rows: dict[Path, Row]) -> int:
    return sum(row.state == "failed" for row in rows.values())


def _conclude(out: Path, rows: Sequence[Row], totals: dict[str, Any], as_json: bool) -> int:
    if as_json:
        console.print_json({**totals, "jobs": [row.told() for row in rows]})
    else:
        counts = ", ".join(f"{totals[name]} {name}" for name in ("done", "skipped", "failed"))
        stopped = f", {totals['stopped']} stopped; call it again to go on" * bool(totals["stopped"])
        frames = f"{totals['frames']} frames in {totals['seconds']:.1f} s, {totals['fps']:.1f} FPS"
        console.out.print(f"{counts}{stopped}; {frames}")
        console.out.print(f"report   {out / 'report.html'}", soft_wrap=True)
    for row in rows:
        if row.state == "failed":
            console.note(f"failed: {row.job.name}: {row.error}")
    if totals["failed"] and not as_json:
        console.note("--retry-failed does them again")
    if totals["stopped"]:
        return console.INTERRUPTED
    return console.FAILED if totals["failed"] else 0
