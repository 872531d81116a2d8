"""The GPU benchmark runs in a small form on a CPU, and asks for a GPU otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

SCRIPT = "benchmarks/speed/gpu_latency.py"


def test_every_row_is_there(run_script: Callable[..., Any]) -> None:
    small = "--device cpu --tiny --frames 3 --no-transformers --backend eager --shares 0.5"
    report = run_script(SCRIPT, *small.split())
    eager, compiled, prepared, tracked, plan = report["rows"]
    assert (eager["name"], compiled["name"]) == ("eager", "compiled")
    assert all(0 < row["p50_ms"] <= row["p99_ms"] for row in report["rows"])
    assert "prepared" in prepared["name"] and tracked["fps"] > 0
    assert report["watched_waits"] == []
    # Of four blocks the first and the last.
    assert plan["blocks"] == 2
    assert 1 < plan["frame_flop_gain"] < plan["encoder_flop_gain"] < 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(run_script: Callable[..., Any]) -> None:
    with pytest.raises(SystemExit, match="CUDA"):
        run_script(SCRIPT)
