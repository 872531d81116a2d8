"""`tempomask propagate`, and `eval davis --propagator`, over the bundled model's features."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.cli.propagate import masks_at
from tempomask.errors import InputError
from tempomask.io.images import read_mask
from tempomask.propagation.session import PropagationSession

SIZE = ("--model", "nano", "--short-side", 64, "--device", "cpu", "--dtype", "float32")


@pytest.fixture
def first_mask(tmp_path: Path) -> Path:
    """Two objects on the first frame of the small video: its square, and a strip below."""
    labels = np.zeros((32, 48), np.uint8)
    labels[8:24, 4:20], labels[26:32] = 3, 7
    Image.fromarray(labels).save(tmp_path / "first.png")
    return tmp_path / "first.png"


def test_masks_boxes_and_a_report(
    run: Callable[..., Any], video: Path, first_mask: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    save = ("--save", "masks,boxes,chart", "--out", out)
    code, text, err = run("propagate", video, "--mask", first_mask, *SIZE, *save, "--json")
    assert code == 0, err
    report = json.loads(text)
    assert (report["model"], report["image_size"], report["frames"]) == ("nano", 64, 7)
    assert [item["id"] for item in report["objects"]] == [3, 7]
    assert np.array_equal(read_mask(out / "masks" / "00000.png"), read_mask(first_mask))
    assert len((out / "boxes" / "3.txt").read_text().splitlines()) == 7
    assert (out / "chart.png").exists()


def test_backward_from_a_later_frame(
    run: Callable[..., Any], video: Path, first_mask: Path, tmp_path: Path
) -> None:
    arguments = ("--frame", 5, "--end", 2, "--direction", "backward", "--save", "masks")
    out = ("--out", tmp_path / "out")
    code, _, err = run("propagate", video, "--mask", first_mask, *SIZE, *arguments, *out)
    assert code == 0, err
    names = sorted(path.name for path in (tmp_path / "out" / "masks").iterdir())
    assert names == [f"{t:05d}.png" for t in (2, 3, 4, 5)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "no mask given; say where"),
        (("--mask", "FIRST", "--model", "dino"), "unknown model 'dino'"),
        (("--mask", "FIRST", "--direction", "both"), 'Invalid value "both" for --direction'),
        (("--mask", "FIRST", "--router", "pbd"), "router 'pbd' needs an adapter"),
        (("--mask", "FIRST", "--top-k", "0"), "top_k must be a whole number, 1 or more"),
        (("--mask", "FIRST", "--frame", "9"), "prompt on frame 9, but the video has 7 frames"),
    ],
)
def test_bad_input(
    run: Callable[..., Any],
    video: Path,
    first_mask: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    given = [str(first_mask) if part == "FIRST" else part for part in arguments]
    code, _, err = run("propagate", video, *SIZE[4:], "--out", tmp_path / "out", *given)
    assert code == 2 and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_plain_masks_are_numbered(first_mask: Path, tmp_path: Path) -> None:
    for name, rows in (("a", slice(0, 4)), ("b", slice(9, 12))):
        mask = np.zeros((32, 48), np.uint8)
        mask[rows] = 255
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    prompts = masks_at(4, [tmp_path / "a.png", tmp_path / "b.png", first_mask])
    assert [(p.object_id, p.frame) for p in prompts] == [(1, 4), (2, 4), (3, 4), (7, 4)]
    with pytest.raises(InputError, match="object 3"):
        masks_at(0, [first_mask, first_mask])


@pytest.fixture
def davis(tmp_path: Path, video: Path, first_mask: Path) -> Path:
    """The small video as a DAVIS root; the annotation is the first frame's throughout."""
    root = tmp_path / "DAVIS"
    for part in ("JPEGImages", "Annotations"):
        (root / part / "square").mkdir(parents=True)
    for path in video.iterdir():
        (root / "JPEGImages" / "square" / path.name).write_bytes(path.read_bytes())
        (root / "Annotations" / "square" / path.name).write_bytes(first_mask.read_bytes())
    return root


def test_evaluation_on_davis(run: Callable[..., Any], davis: Path) -> None:
    arguments = ("eval", "davis", davis, "--propagator", "nano", "--image-size", 64)
    code, text, err = run(*arguments, "--device", "cpu", "--dtype", "float32", "--json")
    assert code == 0, err
    report = json.loads(text)
    assert report["settings"]["method"] == "propagation" and report["objects"] == 2
    # The strip below does not move.
    assert report["J"] > 30 and report["FPS"] > 0
    code, _, err = run(*arguments, "--memory", "samurai")
    assert code == 2 and "leave --memory out" in err
    code, _, err = run(*arguments, "--prompt", "click")
    assert code == 2 and "is not a mask" in err


@pytest.mark.parametrize(
    "option", [("--model", "nano"), ("--pooled-memory",), ("--preset", "interactive")]
)
def test_evaluation_refuses_what_propagation_ignores(
    run: Callable[..., Any], davis: Path, option: str
) -> None:
    code, _, err = run("eval", "davis", davis, "--propagator", "nano", *option)
    assert code == 2 and err.strip().endswith(f"; leave {option[0]} out")


def test_evaluation_routes_by_the_adapter(run: Callable[..., Any], davis: Path) -> None:
    arguments = ("eval", "davis", davis, "--propagator", "nano", "--image-size", 64, "--json")
    for asked in (("--adapter", "nano-rds"), ("--budget", 0.6)):
        code, text, err = run(*arguments, *asked)
        assert code == 0, err
        assert json.loads(text)["blocks_run"] < 0.95


def test_sizes_of_dinov3_are_listed(run: Callable[..., Any]) -> None:
    code, text, _ = run("models", "--json")
    rows = {row["name"]: row for row in json.loads(text)}
    assert code == 0 and rows["dinov3-vitl16"]["image_size"] == 960
    assert "gated" in rows["dinov3-vits16"]["licence"]


def test_a_stopped_run_that_is_resumed_equals_one_in_one_go(
    run: Callable[..., Any],
    video: Path,
    first_mask: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = ("propagate", video, "--mask", first_mask, *SIZE, "--save", "masks", "--budget", "0.6")
    assert run(*given, "--out", tmp_path / "whole")[0] == 0
    step, stepped = PropagationSession.step, list[int | None]()

    def interrupted(self: PropagationSession, frame: Any, index: int | None = None) -> Any:
        stepped.append(index)
        if len(stepped) == 4:
            signal.raise_signal(signal.SIGTERM)
        return step(self, frame, index)

    monkeypatch.setattr(PropagationSession, "step", interrupted)
    assert run(*given, "--out", tmp_path / "out")[0] == 130
    assert run(*given, "--out", tmp_path / "out", "--resume")[0] == 0
    assert stepped == list(range(7))
    lines = [(tmp_path / name / "frames.jsonl").read_text() for name in ("whole", "out")]
    assert lines[0] == lines[1]
