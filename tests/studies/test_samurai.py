"""SAMURAI's cost and what it gains: the scripts run, and say what they promise."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parent.parent.parent / "studies" / "samurai" / "__main__.py"


def test_samurai_cost(run_script: Any) -> None:
    report = run_script("studies/samurai/cost.py", "--quick")
    assert set(report["network_ms"]) == {"encode", "attend", "decode", "encode_memory"}
    assert report["frame_ms"] == pytest.approx(sum(report["network_ms"].values()), abs=0.01)
    assert 0 < report["share_percent"] < 100


def test_samurai_transfer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two short sequences: a row for each memory, and images of the most and the least helped."""
    for name, speed in (("slow", 1), ("fast", 4)):
        for part in ("JPEGImages", "Annotations"):
            (tmp_path / "DAVIS" / part / name).mkdir(parents=True)
        for t in range(4):
            labels = np.zeros((48, 64), np.uint8)
            labels[10:30, 5 + speed * t : 25 + speed * t] = 1
            frame = np.repeat((40 + 180 * labels)[..., None], 3, axis=2)
            file = f"{name}/{t:05d}.png"
            Image.fromarray(frame).save(tmp_path / "DAVIS" / "JPEGImages" / file)
            Image.fromarray(labels).save(tmp_path / "DAVIS" / "Annotations" / file)
    arguments = [str(tmp_path / "DAVIS"), "--quick", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["samurai", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    report = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["recent", "samurai", "samurai-three-masks"]
    assert set(report["gain_of_motion"]) == {"samurai", "samurai-three-masks"}
    assert all(set(gains) == {"slow", "fast"} for gains in report["gain_of_motion"].values())
    images = [path.name.split("_")[1] for path in sorted((tmp_path / "out").glob("*.png"))]
    assert images == ["helps", "hurts"]
