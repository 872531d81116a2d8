"""The pages on nano and on what is compared quote the JSON files beside them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def result(name: str) -> Any:
    return json.loads((DOCS / "results" / f"{name}.json").read_text())


def flat(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").split())


@pytest.mark.parametrize("kind", ["click", "box"])
def test_clicks_and_boxes_of_nano_are_those_measured(kind: str) -> None:
    first, shipped = (
        result(name)["iou"][kind] for name in ("nano_prompts_first_stage", "nano_prompts")
    )
    assert f"| {first:.1f} | {shipped:.1f} |" in flat(DOCS / "nano.md")
    percent = f"mean IoU of {shipped:.0f}%" if kind == "click" else f"box with {shipped:.0f}%"
    assert percent in flat(ROOT / "src" / "tempomask" / "assets" / "NANO.md")


def test_tracking_of_nano_is_that_measured() -> None:
    text = flat(DOCS / "nano.md")
    for name in ("nano_prompts_first_stage", "nano_prompts"):
        rows = result(name)["tracking"]
        assert ", ".join(f"{rows[kind]['J']:.1f}" for kind in ("mask", "box", "click")) in text


def test_time_of_a_frame_of_nano_is_that_measured() -> None:
    card = flat(ROOT / "src" / "tempomask" / "assets" / "NANO.md")
    for row in result("nano_frame_time")["rows"]:
        if (row["image_size"], row["engine"]) == (384, "fast"):
            assert f"{row['median_ms']:.0f} ms" in card and row["dtype"] in card


def test_costs_in_the_comparison_are_those_counted() -> None:
    (large,) = (m for m in result("model_cost")["models"] if m["model"] == "sam2.1-large")
    cost = large["giga_multiply_adds"]["encoder"]
    text = flat(DOCS / "method" / "comparison.md")
    assert f"{cost['weights']} G in that convention" in text
    assert f"{cost['all']} G multiply-adds, or {2 * cost['all']:,.0f} GFLOPs" in text
