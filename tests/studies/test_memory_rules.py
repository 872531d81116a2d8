"""Rules of memory: the script runs, and has a row for each rule."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tempomask.files import read_json

SCRIPT = Path(__file__).parent.parent.parent / "studies" / "memory_rules" / "__main__.py"


def test_every_rule_has_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, save_pair: Any
) -> None:
    for t in range(4):
        labels = np.zeros((48, 64), np.uint8)
        labels[10:30, 5 + t : 25 + t] = 1
        save_pair(tmp_path / "DAVIS", f"slow/{t:05d}", labels)
    arguments = [str(tmp_path / "DAVIS"), "--quick", "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", ["memory_rules", *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    report = read_json(tmp_path / "out" / "memory_rules.json", "the report")
    rules = ["recent", "samurai", "dam4sam", "sam2long"]
    assert [row["name"] for row in report["rows"]] == rules == list(report["cost"])
    assert report["cost"]["recent"]["ratio"] == 1
    assert all(row["frame_cpu_ms"] > 0 for row in report["cost"].values())
