"""Quality of nano's prompts and of label propagation: the scripts say what they promise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.nano_prompts import look_alike_clips
from tests.training_data import write_training_folder


def test_nano_prompts(run_script: Any, save_pair: Any, tmp_path: Path) -> None:
    """Bright rectangles: every number is there, and they are followed from their mask."""
    root = write_training_folder(tmp_path / "data")
    for number, name in enumerate(("dance-jump", "horsejump-low", "rollerblade", "soccerball")):
        for t in range(2):
            labels = np.zeros((256, 320), np.uint8)
            labels[60:200, 60 + 9 * number + 2 * t : 180 + 9 * number + 2 * t] = 1
            save_pair(root / "davis16-train-256", f"{name}/{t:05d}", labels)
    arguments = ("--frames", "2", "--clips", "2", "--image-size", "128")
    report = run_script("benchmarks/nano_prompts.py", "--data", root, *arguments)
    assert report["images"] == 2 and report["objects"] == 4
    assert report["iou"]["click/oracle"] >= report["iou"]["click"]
    assert report["look_alikes"]["J"] > 10 and report["look_alikes"]["identity"] > 30
    assert report["tracking"]["mask"]["J"] > 70


def test_look_alikes_are_the_same_at_every_call(tmp_path: Path) -> None:
    root = write_training_folder(tmp_path / "data")
    clips, again = (list(look_alike_clips(root, 3)) for _ in range(2))
    for clip, same in zip(clips, again, strict=True):
        assert np.array_equal(clip.frames, same.frames) and np.array_equal(clip.ids, same.ids)
        assert set(np.unique(clip.ids[0])) >= {1, 2, 3}


def test_propagation_speed(run_script: Any) -> None:
    pytest.importorskip("transformers")
    arguments = ("--quick", "--speed", "dinov3-vits16")
    report = run_script("benchmarks/quality/propagation.py", *arguments)
    full, routed = report["speed"]
    assert (full["policy"], full["blocks_run"], full["speed_up"]) == ("full", 1.0, 1.0)
    # Of four blocks, a budget of 0.6 has room for two: the first and the last.
    assert (routed["policy"], routed["blocks_run"]) == ("RDS 0.6", 0.5)


def test_memory_budgets_take_turns(run_script: Any, save_pair: Any, tmp_path: Path) -> None:
    """A square that moves: budgets hold, and keep what all tokens find."""
    for t in range(11):
        labels = np.zeros((96, 128), np.uint8)
        labels[30:66, 20 + 3 * t : 60 + 3 * t] = 1
        save_pair(tmp_path, f"square/{t:05d}", labels, ("JPEGImages/480p", "Annotations/480p"))
    script = "benchmarks/quality/memory_budget.py"
    rows = run_script(script, "--data", tmp_path, "--adapter", "", "--image-size", "192")["rows"]
    shares = {row["variant"]: row["queries"] for row in rows}
    assert shares["budget 1"] == shares["pooled, 1"] == 1
    assert 0.3 < shares["budget 0.3"] < shares["budget 0.5"] < shares["budget 0.7"] < 1
    for row in rows:
        assert row["frame_ms"] > row["attention_ms"] > 0
        assert row["J&F"] > 80
