"""A real Ray cluster on this machine gives the outcomes of the pool: errors, deaths, stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from tempomask.batch.pool import Outcome, run_jobs
from tempomask.batch.ray_fleet import RayFleet
from tempomask.errors import InputError
from tests.batch import work
from tests.batch.work import KINDS, Task, check_outcomes, start, tasks

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    # Ray's workers let all others of a machine go first by default.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    ray.cloudpickle.register_pickle_by_value(work)
    return tmp_path


def test_actors_do_what_processes_do(here: Path) -> None:
    """One hangs until its time is up; the last one is stopped, and says so."""
    fleet: RayFleet[Task] = RayFleet(start, "local", 1, 2)
    assert fleet.workers == 2
    found: dict[str, Outcome[Task]] = {}

    def stopped() -> bool:
        return "slow" in found and (here / "stops").exists()

    jobs = tasks(["slow", *KINDS, "stops"], here)
    for outcome in run_jobs(jobs, fleet, 2, timeout=6, stopped=stopped):
        found[outcome.job[0]] = outcome
    check_outcomes(found, here, threads=1)
    assert (found["dies"].error or "").startswith("its actor died: ")
    assert found["slow"].error == "took longer than 6 s"
    for kind in ("well", "stops"):
        report = found[kind].report
        assert report and report["folder"] == str(here), kind


def test_clusters_that_are_not_there() -> None:
    with pytest.raises(InputError, match="--ray 127.0.0.1:1: "):
        RayFleet(start, "127.0.0.1:1", 1, 1)
    with pytest.raises(InputError, match="--gpus all: the cluster of --ray local has no GPU"):
        RayFleet(start, "local", 1, 1, gpus=True)
