"""The GPU benchmark runs in a small form on a CPU, and asks for a GPU otherwise."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> str:
    # As when the script is run by its name.
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return str(BENCHMARKS / "gpu_latency.py")


def test_every_row_is_there(script: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    out = tmp_path / "latency.json"
    small = "--device cpu --tiny --frames 3 --no-transformers --backend eager --shares 0.5"
    monkeypatch.setattr(sys, "argv", [script, *small.split(), "--out", str(out)])
    runpy.run_path(script, run_name="__main__")
    report = json.loads(out.read_text())
    eager, compiled, prepared, tracked, plan = report["rows"]
    assert (eager["name"], compiled["name"]) == ("eager", "compiled")
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in report["rows"])
    assert "prepared" in prepared["name"] and tracked["fps"] > 0
    assert report["watched_waits"] == []
    # Of four blocks the first and the last.
    assert plan["blocks"] == 2
    assert 1 < plan["frame_flop_gain"] < plan["encoder_flop_gain"] < 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script])
    with pytest.raises(SystemExit, match="needs a CUDA GPU, and none is here"):
        runpy.run_path(script, run_name="__main__")
