"""The choice of kernels: measured once, remembered, and never a reason to fail."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tempomask.engine.choose import fastest

Ways = dict[str, Callable[[], object]]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("TEMPOMASK_KERNELS")
    monkeypatch.setenv("TEMPOMASK_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def lasting(**seconds: float) -> Callable[[], Ways]:
    return lambda: {name: lambda s=s: time.sleep(s) for name, s in seconds.items()}


def never() -> Ways:
    raise AssertionError("measured again")


def test_the_fastest_is_measured_once() -> None:
    assert fastest("a", lasting(torch=0.02, other=0.002)) == "other"
    assert fastest("b", lasting(torch=0.002, other=0.02)) == "torch"
    assert fastest("a", never) == "other"
    assert fastest("b", never) == "torch"


def test_torch_is_taken_unless_another_is_clearly_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("tempomask.engine.choose.time.perf_counter", lambda: now[0])

    def ways() -> Ways:
        def spend(seconds: float) -> None:
            now[0] += seconds

        return {"torch": lambda: spend(1.0), "other": lambda: spend(0.97)}

    assert fastest("a", ways) == "torch"


def test_other_instructions_are_measured_for_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest("a", lasting(torch=0.02, other=0.002))
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: "another")
    assert fastest("a", lasting(torch=0.002, other=0.02)) == "torch"


def test_a_file_that_cannot_be_read_or_written_only_costs_time(home: Path) -> None:
    home.mkdir()
    for broken in ("{", "[1]", "3"):
        (home / "kernels.json").write_text(broken)
        assert fastest("a", lasting(torch=0.02, other=0.002)) == "other"
    (home / "kernels.json").unlink()
    home.rmdir()
    home.write_text("no folder")
    assert fastest("a", lasting(torch=0.02, other=0.002)) == "other"


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    fastest("a", lasting(torch=0.02, other=0.002))
    monkeypatch.setenv("TEMPOMASK_KERNELS", "default")
    assert fastest("a", never) == ""
