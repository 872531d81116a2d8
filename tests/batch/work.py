"""Work for a fleet: jobs end well, fail, die, wait for a signal or hang, as their names say."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tempomask.batch.pool import Fleet, Outcome, run_jobs
from tempomask.errors import InputError

# What it does, and the file in which each attempt notes its process.
Task = tuple[str, str]


def start() -> Callable[[Task], dict[str, Any]]:
    """What `Processes` and `RayFleet` call in a worker."""
    return _do


def _do(job: Task) -> dict[str, Any]:
    kind, place = job
    stopped: list[int] = []
    if kind == "stops":
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
    with Path(place).open("a") as file:
        file.write(f"{os.getpid()}\n")
    if kind == "dies" or (kind == "dies once" and len(processes_of(place)) == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "bad":
        raise InputError("bad input")
    if kind == "odd":
        raise KeyError("odd")
    if kind.startswith("meets"):
        while len(list(Path(place).parent.glob("meets*"))) < 2:
            time.sleep(0.02)
    while kind == "stops" and not stopped:
        time.sleep(0.01)
    if kind == "slow":
        time.sleep(60)
    return {
        "kind": kind,
        "threads": os.environ["OMP_NUM_THREADS"],
        "device": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "folder": os.getcwd(),
    }


def processes_of(place: str | Path) -> list[str]:
    """The processes that have begun a job."""
    return Path(place).read_text().split()


def tasks(kinds: Sequence[str], folder: Path) -> list[Task]:
    """A job of each kind."""
    return [(kind, str(folder / kind)) for kind in kinds]


def outcomes(
    kinds: Sequence[str], folder: Path, fleet: Fleet[Task], **options: Any
) -> dict[str, Outcome[Task]]:
    """How jobs of each kind end with two workers; `options` of `run_jobs`."""
    return {o.job[0]: o for o in run_jobs(tasks(kinds, folder), fleet, 2, **options)}


# What goes wrong costs one job.
KINDS = ("dies", "bad", "odd", "dies once", "well", "fine")


def check_outcomes(found: dict[str, Outcome[Task]], folder: Path, threads: int) -> None:
    """Those of `KINDS`, of workers with so many threads; but for how "dies" died."""
    for kind in ("dies once", "well", "fine"):
        report = found[kind].report
        assert report and (report["kind"], report["threads"]) == (kind, str(threads))
    assert found["bad"].error == "bad input"
    assert found["odd"].error == "KeyError: 'odd'"
    assert (found["dies"].error or "").endswith(", twice")
    for kind, times in (("dies", 2), ("dies once", 2), ("well", 1), ("bad", 1)):
        processes = processes_of(folder / kind)
        # Each time in a process of its own.
        assert len(processes) == len(set(processes)) == times
