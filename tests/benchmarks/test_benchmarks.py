"""The benchmark scripts of SAMURAI and label propagation run, and say what they promise."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


def run(monkeypatch: pytest.MonkeyPatch, out: Path, script: str, *arguments: str) -> Any:
    monkeypatch.setattr(sys, "argv", [script, *arguments, "--out", str(out)])
    runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    return json.loads(out.read_text())


def test_samurai_cost(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    report = run(monkeypatch, tmp_path / "cost.json", "samurai_cost.py", "--quick")
    assert set(report["network_ms"]) == {"encode", "attend", "decode", "memorise"}
    assert report["frame_ms"] == pytest.approx(sum(report["network_ms"].values()), abs=0.01)
    assert 0 < report["share_percent"] < 100


def test_propagation_speed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    arguments = ("propagation.py", "--quick", "--speed", "dinov3-vits16")
    report = run(monkeypatch, tmp_path / "speed.json", *arguments)
    full, routed = report["speed"]
    assert (full["policy"], full["blocks_run"], full["speed_up"]) == ("full", 1.0, 1.0)
    # Of four blocks, a budget of 0.6 has room for two: the first and the last.
    assert (routed["policy"], routed["blocks_run"]) == ("RDS 0.6", 0.5)
