"""The pool: errors, deaths and timeouts cost one job each, and a stop is clean."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tempomask.batch.pool import Processes
from tests.batch.work import KINDS, check_outcomes, outcomes, start


def test_what_goes_wrong_costs_one_job(tmp_path: Path) -> None:
    found = outcomes(KINDS, tmp_path, Processes(start, 3))
    assert set(found) == set(KINDS)
    check_outcomes(found, tmp_path, threads=3)
    assert found["dies"].error == "its process died of SIGKILL (out of memory?), twice"
    assert found["well"].report and found["well"].report["device"] is None


def test_each_worker_has_a_device_and_leaves_it_to_the_next(tmp_path: Path) -> None:
    """Both workers wait for each other, so that each does one job; a dead one's device is free."""
    found = outcomes(["meets", "meets too"], tmp_path, Processes(start, 3, ("3", "GPU-5")))
    devices = {each.report["device"] for each in found.values() if each.report}
    assert devices == {"3", "GPU-5"}
    (one,) = outcomes(["dies once"], tmp_path, Processes(start, 3, ("7",))).values()
    assert one.report and one.report["device"] == "7"


@pytest.mark.slow
def test_a_slow_job_fails_and_the_others_go_on(tmp_path: Path) -> None:
    found = outcomes(["slow", "well", "fine"], tmp_path, Processes(start, 3), timeout=4.0)
    assert found["slow"].error == "took longer than 4 s"
    assert found["well"].report and found["fine"].report


def test_a_stop_ends_all(tmp_path: Path) -> None:
    began, fleet = time.monotonic(), Processes(start, 3)
    found = outcomes(["slow", "slow"], tmp_path, fleet, stopped=(tmp_path / "slow").exists)
    assert not found and time.monotonic() - began < 30
