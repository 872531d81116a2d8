"""Quality of nano's prompts and of label propagation: the scripts say what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest


def test_nano_prompts(run_script: Any, save_pair: Any, tmp_path: Path) -> None:
    """Bright rectangles: every number is there, and they are followed from their mask."""
    root = tmp_path / "data" / "davis16-train-256"
    for number, name in enumerate(("dance-jump", "horsejump-low", "rollerblade", "soccerball")):
        for t in range(2):
            labels = np.zeros((256, 320), np.uint8)
            labels[60:200, 60 + 9 * number + 2 * t : 180 + 9 * number + 2 * t] = 1
            save_pair(root, f"{name}/{t:05d}", labels)
    # The library of cut-outs lists them; none is drawn for the images that validate.
    for name in ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500"):
        folder = root.parent / "stills-256" / name
        save_pair(folder, "0", np.eye(64, dtype=np.uint8), ("images", "labels"))
    arguments = ("--frames", "2", "--images", "2", "--image-size", "256")
    report = run_script("benchmarks/nano_prompts.py", "--data", root.parent, *arguments)
    assert report["images"] == 2 and report["objects"] >= 4
    assert set(report["iou"]) == {"click", "box"}
    assert report["tracking"]["mask"]["J"] > 70
    scores = report["position_scores"]
    assert scores["clicked"] > scores["deviation"]


def test_propagation_speed(run_script: Any) -> None:
    pytest.importorskip("transformers")
    arguments = ("--quick", "--speed", "dinov3-vits16")
    report = run_script("benchmarks/quality/propagation.py", *arguments)
    full, routed = report["speed"]
    assert (full["policy"], full["blocks_run"], full["speed_up"]) == ("full", 1.0, 1.0)
    # Of four blocks, a budget of 0.6 has room for two: the first and the last.
    assert (routed["policy"], routed["blocks_run"]) == ("RDS 0.6", 0.5)
