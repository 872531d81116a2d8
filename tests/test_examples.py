"""The examples run, and say what they promise."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str
) -> str:
    """What an example prints, on a few frames of the bundled clip."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [name, *words])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


def test_track_clip(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run("track_clip", capsys, monkeypatch, "--frames", "13", "--out", str(tmp_path))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["00000.png", "00012.png"]


def test_correct_mask(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = re.findall(
        r"IoU ([0-9.]+)", run("correct_mask", capsys, monkeypatch, "--frames", "4")
    )
    assert 0.5 < float(before) < float(after)


def test_live_camera(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("live_camera", capsys, monkeypatch, "--frames", "12").splitlines()
    assert [line.split()[:2] for line in lines[-4:]] == [
        ["10", "1"],
        ["10", "2"],
        ["11", "1"],
        ["11", "2"],
    ]
    assert len(lines) == 10 + 2 * 2


def test_submodel(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("submodel", capsys, monkeypatch, "--frames", "4", "--budgets", "1,0.5").splitlines()
    full, half = (int(re.findall(r"(\d+)% of the blocks", line)[0]) for line in lines)
    # The first frame runs all blocks.
    assert full == 100 and 50 <= half <= 63


def test_own_routing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = run("own_routing", capsys, monkeypatch, "--frames", "6").splitlines()
    ran = [line.split(" ", 1)[1] for line in lines]
    assert ran == ["14 of 14 blocks", *["8 of 14 blocks"] * 4, "14 of 14 blocks"]


def test_every_example_is_tested() -> None:
    # That of the graphs is tested where there are graphs, in tests/export.
    names = {path.stem for path in EXAMPLES.glob("*.py")} - {"clip", "track_onnx"}
    tests = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert names == tests - {"every_example_is_tested"} and len(names) == 5
