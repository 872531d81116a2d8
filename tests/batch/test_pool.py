"""The pool: errors, deaths and timeouts cost one job each, and a stop is clean."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tempomask.batch.pool import Outcome, Processes, run_jobs
from tempomask.errors import InputError

Task = tuple[str, str]


def start() -> Callable[[Task], dict[str, Any]]:
    def do(job: Task) -> dict[str, Any]:
        kind, place = job
        with Path(place).open("a") as file:
            file.write(f"{os.getpid()}\n")
        times = len(Path(place).read_text().split())
        if kind == "dies" or (kind == "dies once" and times == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "bad":
            raise InputError("bad input")
        if kind == "odd":
            raise KeyError("odd")
        if kind.startswith("meets"):
            while len(list(Path(place).parent.glob("meets*"))) < 2:
                time.sleep(0.02)
        if kind == "slow":
            time.sleep(60)
        names = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"
        return {"kind": kind, "threads": os.environ[names[0]], "device": os.environ.get(names[1])}

    return do


def outcomes(
    kinds: list[str], folder: Path, devices: Sequence[str] = (), **options: Any
) -> dict[str, Outcome[Task]]:
    jobs = [(kind, str(folder / kind)) for kind in kinds]
    fleet = Processes(start, 3, devices)
    return {o.job[0]: o for o in run_jobs(jobs, fleet, workers=2, **options)}


def test_what_goes_wrong_costs_one_job(tmp_path: Path) -> None:
    kinds = ["dies", "bad", "odd", "dies once", "well", "fine"]
    found = outcomes(kinds, tmp_path)
    assert set(found) == set(kinds)
    for kind in ("dies once", "well", "fine"):
        assert found[kind].report == {"kind": kind, "threads": "3", "device": None}
    assert found["bad"].error == "bad input"
    assert found["odd"].error == "KeyError: 'odd'"
    assert found["dies"].error == "its process died of SIGKILL (out of memory?), twice"
    for kind, times in (("dies", 2), ("dies once", 2), ("well", 1), ("bad", 1)):
        processes = (tmp_path / kind).read_text().split()
        # Each time in a process of its own.
        assert len(processes) == len(set(processes)) == times


def test_each_worker_has_a_device_and_leaves_it_to_the_next(tmp_path: Path) -> None:
    """Both workers wait for each other, so that each does one job; a dead one's device is free."""
    found = outcomes(["meets", "meets too"], tmp_path, devices=("3", "GPU-5"))
    devices = {each.report["device"] for each in found.values() if each.report}
    assert devices == {"3", "GPU-5"}
    (one,) = outcomes(["dies once"], tmp_path, devices=("7",)).values()
    assert one.report and one.report["device"] == "7"


@pytest.mark.slow
def test_a_slow_job_fails_and_the_others_go_on(tmp_path: Path) -> None:
    found = outcomes(["slow", "well", "fine"], tmp_path, timeout=8.0)
    assert found["slow"].error == "took longer than 8 s"
    assert found["well"].report and found["fine"].report


def test_a_stop_ends_all(tmp_path: Path) -> None:
    began = time.monotonic()
    found = outcomes(["slow", "slow"], tmp_path, stopped=(tmp_path / "slow").exists)
    assert not found and time.monotonic() - began < 30
