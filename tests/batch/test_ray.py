"""A real Ray cluster on this machine gives the outcomes of the pool: errors, deaths, stops."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tempomask.batch.pool import Outcome, run_jobs
from tempomask.batch.ray_fleet import RayFleet
from tempomask.errors import InputError
from tests.batch import work
from tests.batch.work import KINDS, Task, check_outcomes, start, tasks

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of one; `--ray local` starts its own in tests/cli/test_batch.py."""
    from ray.cluster_utils import Cluster

    ray.cloudpickle.register_pickle_by_value(work)
    with pytest.MonkeyPatch.context() as patch:
        # Ray's workers let all others of a machine go first by default.
        patch.setenv("RAY_worker_niceness", "0")
        made = Cluster(True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        yield made.address
        made.shutdown()


def test_actors_do_what_processes_do(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hangs until its time is up; the last one is stopped, and says so."""
    monkeypatch.chdir(tmp_path)
    fleet: RayFleet[Task] = RayFleet(start, cluster, 1, None)
    assert fleet.workers == 2
    found: dict[str, Outcome[Task]] = {}

    def stopped() -> bool:
        return "slow" in found and (tmp_path / "stops").exists()

    jobs = tasks(["slow", *KINDS, "stops"], tmp_path)
    for outcome in run_jobs(jobs, fleet, 2, timeout=6, stopped=stopped):
        found[outcome.job[0]] = outcome
    check_outcomes(found, tmp_path, threads=1)
    assert (found["dies"].error or "").startswith("its actor died: ")
    assert found["slow"].error == "took longer than 6 s"
    for kind in ("well", "stops"):
        report = found[kind].report
        assert report and report["folder"] == str(tmp_path), kind


def test_clusters_that_are_not_there(cluster: str) -> None:
    with pytest.raises(InputError, match="--ray 127.0.0.1:1: "):
        RayFleet(start, "127.0.0.1:1", 1, 1)
    with pytest.raises(InputError, match=f"--gpus all: .* {cluster} has no GPU"):
        RayFleet(start, cluster, 1, 1, gpus=True)
