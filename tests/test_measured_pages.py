"""The pages on speed and on nano quote the JSON files beside them."""

from __future__ import annotations

import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def result(name: str) -> Any:
    return json.loads((DOCS / "results" / f"{name}.json").read_text())


def flat(path: Path) -> str:
    return " ".join(path.read_text(encoding="utf-8").split())


def test_ratios_of_the_trials_are_those_measured() -> None:
    """Every ratio in the tables of steps and of what was not kept."""
    page = (DOCS / "performance.md").read_text(encoding="utf-8")
    steps = page[page.index("## What was done") : page.index("int8: the product alone")]
    quoted = set(re.findall(r"\d+\.\d\dx", steps))
    ratios = [
        ratio
        for name in ("performance/engine_trials", "performance/compiled", "nano_trials")
        for trial in result(name)["trials"].values()
        for ratio in trial["ratio"].values()
    ]
    encoder = result("performance/int8")["encoder"]["milliseconds"]
    measured = {f"{ratio:.2f}x" for ratio in (*ratios, encoder["int8"] / encoder["bfloat16"])}
    assert len(quoted) > 15 and quoted <= measured


def thousandths(seconds: float) -> str:
    """Rounded up from a half, as a reader rounds the JSON's digits."""
    return str(Decimal(str(seconds)).quantize(Decimal("0.001"), ROUND_HALF_UP))


SIDES = {
    "transformers": "transformers",
    "fast": "tempomask",
    "plain": "tempomask, plain engine",
}
# Frames before the timed ones, until memories are full.
BEFORE = 8


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("tiny", "SAM 2.1-T, 1"),
        ("large", "SAM 2.1-L, 1"),
        ("tiny_10_objects", "SAM 2.1-T, 10"),
        ("efficienttam_s_2", "EfficientTAM-S (Eq. 6), 1"),
        ("efficienttam_ti_512", "EfficientTAM-Ti at 512, 1"),
    ],
)
def test_the_table_beside_transformers_is_that_measured(name: str, model: str) -> None:
    report, page = result(f"performance/against_{name}"), (DOCS / "performance.md").read_text()
    for row in report["rows"]:
        cells = [model, SIDES[row["side"]], row["dtype"], thousandths(row["seconds"])]
        cells += [f"{row['speedup']:.2f}x"] if "speedup" in row else [""]
        cells += [str(row["peak_mib"])]
        if "speedup" in row:
            cells += [f"{row['same_sign_where_clear']:.2%}", f"{row['mask_iou']:.4f}"]
        assert f"| {' | '.join(cells)} |" in page
    assert len(re.findall(rf"^\| {re.escape(model)} \|", page, re.M)) == len(report["rows"])
    timed = {"tiny_10_objects": 2, "large": 6}.get(name, 8)
    assert report["frames"] - BEFORE == timed


def test_more_runs_of_efficienttam_are_those_measured() -> None:
    two, three = (
        result(f"performance/against_efficienttam_ti_512_run_{run}")["rows"][1]["speedup"]
        for run in (2, 3)
    )
    assert f"gave {two:.2f} and {three:.2f}x" in flat(DOCS / "performance.md")


def test_the_floor_is_that_measured() -> None:
    text, reports = flat(DOCS / "performance.md"), {}
    for size in ("tiny", "large"):
        report = reports[size] = result(f"performance/profile_{size}")
        times = report["seconds"]["fast"]
        floor = sum(report["encoder_floor_seconds"].values())
        share = f"{report['encoder_share_of_floor']:.1%}"
        cells = [f"{floor:.3f} s", f"{report['encoder_seconds']:.3f} s", share]
        cells += [f"{times[part]:.3f} s" for part in ("attend", "decode", "encode_memory")]
        assert f"| sam2.1-{size} | {' | '.join(cells)} |" in text
    turns = reports["large"]["encoder_share_of_floor_by_turn"]
    assert f"({100 * min(turns):.0f} to {max(turns):.0%})" in text
    assert max(reports["tiny"]["encoder_share_of_floor_by_turn"]) < 0.7
    peaks = [report["peak_gflops"] for report in reports.values()]
    assert "products {:,} and {:,} GFLOP/s".format(*(x["products"] for x in peaks)) in text
    assert "attention {} and {} GFLOP/s".format(*(x["attention"] for x in peaks)) in text
    speeds = [report["bandwidth_gb"] for report in reports.values()]
    assert "copies {} and {} GB/s".format(*speeds) in text


@pytest.mark.parametrize(("name", "model"), [("tiny", "sam2.1-tiny"), ("nano", "nano")])
def test_the_tables_of_objects_are_those_measured(name: str, model: str) -> None:
    text = flat(DOCS / "performance.md")
    section = text[text.index(f"| {model} | 1 | 2 | 5 | 10 | 20 objects |") :]
    exact, pooled = result(f"performance/objects_{name}")["curves"]
    for title, curve in (("exact", exact), ("pooled", pooled)):
        speeds = " | ".join(f"{row['fps']:.2f}" for row in curve["rows"])
        assert section.index(f"| {title}, FPS | {speeds} |") < 400
    time, arithmetic = exact["marginal_share_of_first"], exact["marginal_share_of_flops"]
    sentence = f"takes {time:.0%} of the first one's time beyond the encoder (its FLOPs: "
    assert f"{sentence}{arithmetic:.0%})" in section
    (ten,) = (row for row in pooled["rows"] if row["objects"] == 10)
    one_exact, one_pooled = (
        ten["seconds"] / curve["rows"][0]["seconds"] for curve in (exact, pooled)
    )
    told = f"take {one_exact:.1f} times the time of one with exact memories, and {one_pooled:.1f}"
    assert told in section
    if name == "tiny":
        assert one_exact < 4 < one_pooled
        ratio = exact["rows"][3]["seconds"] / exact["rows"][0]["seconds"]
        assert f"with exact memories ten take {ratio:.1f} times" in section
    else:
        assert f"the {exact['rows'][0]['fps']:.2f} here are of single frames" in section


def test_numbers_around_the_network_are_those_measured() -> None:
    text, report = flat(DOCS / "performance.md"), result("performance/startup")
    assert f"first mask on disk: {report['first_mask_seconds']:.2f} s" in text
    torch_s, own = (report[f"import_{name}_seconds"] for name in ("torch", "tempomask_over_torch"))
    assert f"tempomask takes {own:.2f} s over torch's own {torch_s:.2f} s" in text
    share = result("performance/pipeline_share")["share_outside"]
    assert f"writing masks and overlay: {share:.1%}" in text
    assert f"grew by {result('flat_memory')['growth']:.1%} at most" in text


def test_int8_is_told_as_measured() -> None:
    text, report = flat(DOCS / "performance.md"), result("performance/int8")
    ways = [layer["ratio"] for layer in report["layers"].values()]
    for way in ("torch._int_mm", "int8 (oneDNN)"):
        times = [ratio[way] for ratio in ways]
        assert f"{min(times):.1f} to {max(times):.1f}x" in text
    assert f"encoder {report['free_conversion']['speedup']:.2f} times as fast" in text
    masks = result("performance/int8_masks")
    assert f"{masks['int8']['mean']:.4f} instead of {masks['bfloat16']['mean']:.4f}" in text


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
    text = flat(DOCS / "comparison.md")
    assert f"{cost['weights']} G in that convention" in text
    assert f"{cost['all']} G multiply-adds, or {2 * cost['all']:,.0f} GFLOPs" in text
