"""A real Ray cluster on this machine gives the outcomes of the pool: errors, deaths, stops."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tempomask.batch.pool import Outcome, Processes, run_jobs
from tempomask.batch.ray_fleet import RayFleet
from tempomask.errors import InputError

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow
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
        if kind == "stops":
            stopped: list[int] = []
            signal.signal(signal.SIGTERM, lambda *_: stopped.append(1))
            while not stopped:
                time.sleep(0.01)
        if kind == "slow":
            time.sleep(60)
        return {"kind": kind, "threads": os.environ["OMP_NUM_THREADS"], "folder": os.getcwd()}

    return do


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Ray's workers let all others of a machine go first by default.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    return tmp_path


def told(outcomes: list[Outcome[Task]]) -> dict[str, tuple[Any, str | None]]:
    return {o.job[0]: (o.report, o.error and o.error.partition(":")[0]) for o in outcomes}


def test_two_actors_do_what_two_processes_do(here: Path) -> None:
    kinds = ["dies", "bad", "dies once", "well"]
    pooled = [(kind, str(here / f"pool {kind}")) for kind in kinds]
    expected = told(list(run_jobs(pooled, Processes(start, 1), workers=2)))
    jobs = [(kind, str(here / kind)) for kind in [*kinds, "slow"]]
    fleet = RayFleet(start, "local", 1, 2)
    assert fleet.workers == 2
    found = list(run_jobs(jobs, fleet, workers=2, timeout=15))
    # It died twice here and there; how, each says in its own words.
    (death,) = [o.error or "" for o in found if o.job[0] == "dies"]
    assert death.startswith("its actor died") and death.endswith(", twice"), death
    same = told(found)
    assert same.pop("slow") == (None, "took longer than 15 s")
    del same["dies"], expected["dies"]
    assert same == expected and same["well"][0]["folder"] == str(here)
    for kind, times in (("dies", 2), ("dies once", 2), ("well", 1), ("bad", 1)):
        processes = (here / kind).read_text().split()
        assert len(processes) == len(set(processes)) == times


def test_a_stop_reaches_the_actor(here: Path) -> None:
    job = "stops", str(here / "stops")
    (found,) = run_jobs([job], RayFleet(start, "local", 1, 1), 1, stopped=(here / "stops").exists)
    assert found.report and found.report["kind"] == "stops"


def test_clusters_that_are_not_there() -> None:
    with pytest.raises(InputError, match="no cluster to be reached"):
        RayFleet(start, "127.0.0.1:1", 1, 1)
    with pytest.raises(InputError, match="--gpus all: the cluster of --ray local has no GPU"):
        RayFleet(start, "local", 1, 1, gpus=True)
