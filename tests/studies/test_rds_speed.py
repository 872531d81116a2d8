"""What skipping is worth in time, and budgets that move: the scripts run, their numbers agree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.flops import frame_cost
from studies.rds.speed import calls_of
from tempomask.baselines.static import static_blocks
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan


def test_speed_of_routing(run_script: Any) -> None:
    report = run_script(
        "studies/rds/speed.py", "--model", "nano", "--image-size", "128", "--timed", "1",
        "--rounds", "2", "--methods", "rds,static-b", "--budgets", "0.6",
    )  # fmt: skip
    full, routed, fixed = report["rows"]
    assert full["encoder_speedup"]["real_of_rounds"] == [1.0, 1.0]
    assert [row["method"] for row in (routed, fixed)] == ["rds", "static-b"]
    assert routed["routing_ms"] > 0 == fixed["routing_ms"]
    # Multiply-adds are of the blocks that ran.
    segmenter = Segmenter(segmenter_config("nano").with_image_size(128))
    plan = StaticPlan(static_blocks(segmenter.encoder, "b", 0.6), segmenter.encoder).keep
    assert fixed["encoder_GMACs"] == round(frame_cost(segmenter).encoder(plan).total / 1e9, 3)
    for row in (routed, fixed):
        speedup = row["encoder_speedup"]
        assert speedup["promised"] == round(full["encoder_GMACs"] / row["encoder_GMACs"], 3) > 1
        assert min(speedup["real_of_rounds"]) <= speedup["real"] <= max(speedup["real_of_rounds"])


def test_launches_and_waits_are_counted_whatever_their_variant() -> None:
    events = [
        ("aten::mm", 7),
        ("cudaLaunchKernel", 100),
        ("cudaLaunchKernelExC", 20),
        ("cuLaunchKernel", 3),
        ("cuLaunchKernelEx", 2),
        ("cudaGraphLaunch", 1),
        ("cudaMemcpyAsync", 5),
        ("cudaStreamSynchronize", 4),
        ("cudaEventSynchronize", 3),
        ("cudaDeviceSynchronize", 1),
        ("cuStreamSynchronize", 1),
    ]
    counted = calls_of(events)
    assert counted == {"launches": 126, "synchronisations": 9}


def test_moving_budgets(run_script: Any, save_pair: Any, tmp_path: Path) -> None:
    root = tmp_path / "DAVIS"
    for t in range(18):
        labels = np.zeros((64, 96), np.uint8)
        labels[10:50, 5 + t : 45 + t] = 1
        save_pair(root, f"box/{t:05d}", labels)
    arguments = ("--image-size", "64", "--sequence", "box")
    report = run_script("studies/rds/budgets.py", "--root", root, *arguments)
    fixed, threshold, calibrated, adaptive, *targets = report["timelines"].values()
    # Eight of fourteen blocks are what 0.6 has room for.
    assert set(fixed["shares"]) == {round(8 / 14, 4)} and len(targets) == 2
    assert all(len(line["shares"]) == 17 for line in (threshold, calibrated, adaptive, *targets))
    assert [row["budget"] for row in report["scores"]] == [
        "0.6, top-k",
        "0.6, threshold 0.5",
        "0.6, calibrated",
        "0.6, adaptive",
    ]
