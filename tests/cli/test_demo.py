"""`tempomask demo` on the bundled clip, with a tracker that knows the exact masks."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tempomask.adaptation import adapter_file
from tempomask.adaptation.adapter_file import base_sample, save_adapter
from tempomask.adaptation.method import Export
from tempomask.cli import demo_runs
from tempomask.cli.demo import BOX, CLICK, first_prompt
from tempomask.cli.demo_runs import CLIP, ClipRun
from tempomask.frames import FrameSource
from tempomask.io.images import read_mask
from tempomask.io.records import FrameRecord
from tempomask.io.video import open_video
from tempomask.model import Model
from tempomask.results import FrameArrays, FrameResult
from tempomask.rle import encode_rle
from tempomask.routing.predictive import PredictiveRouter, RouterConfig
from tempomask.tracking.tracks import Tracks
from tempomask.weights import load_segmenter

Run = Callable[..., tuple[int, str, str]]


def exact_masks() -> np.ndarray:
    with np.load(CLIP / "masks.npz") as archive:
        masks = np.unpackbits(archive["packed"], axis=-1, count=int(archive["shape"][2]))
    return masks.astype(bool)


def test_the_prompts_show_the_object() -> None:
    first = exact_masks()[0]
    x, y = (int(side) for side in CLICK)
    assert first[y, x]
    rows, columns = first.any(axis=1).nonzero()[0], first.any(axis=0).nonzero()[0]
    assert (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1) == BOX
    assert np.array_equal(read_mask(CLIP / "first_mask.png") == 1, first)
    for kind in ("click", "box", "mask"):
        first_prompt(kind).check_inside(first.shape)


def test_another_prompt_is_refused(run: Run, tmp_path: Path) -> None:
    code, _, err = run("demo", "--prompt", "wish", "--out", tmp_path / "out")
    assert code == 2 and 'Invalid value "wish" for --prompt' in err


def test_the_demo_writes_what_it_says(
    run: Run, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = exact_masks()

    def results(source: FrameSource, _: Any) -> Generator[FrameResult, None, None]:
        for index, _frame in source.frames():
            logits = np.where(masks[index][None], 9, -9).astype(np.float32)
            one = np.ones(1, dtype=np.float32)
            yield FrameResult(
                index, masks[index].shape, (1,), FrameArrays(logits, one, one), np.ones(4, bool)
            )

    def fake(self: Model, source: Any, prompts: Any, **_: Any) -> Tracks[FrameResult]:
        return Tracks(source, results)

    monkeypatch.setattr(Model, "track", fake)
    out = tmp_path / "demo"
    code, text, err = run("demo", "--checkpoint", checkpoint, "--out", out, "--json")
    assert code == 0, err
    report = json.loads(text)
    assert report["iou"] == 1.0 and report["frames"] == len(masks)
    assert "submodel" not in report
    assert set(report["files"]) == {"masks", "overlay", "chart", "sheet", "frames"}
    assert all(Path(path).exists() for path in report["files"].values())
    with Image.open(report["files"]["sheet"]) as sheet:
        assert sheet.width > 600 and sheet.height > 300


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A router for nano that has learned nothing, as the adapter that comes with the package."""
    segmenter = load_segmenter("nano")
    torch.manual_seed(0)
    router = PredictiveRouter(RouterConfig.for_encoder(segmenter.encoder))
    settings = {"budget": 0.5, "thresholds": {}, "router": asdict(router.config)}
    export = Export(settings, {f"router.{k}": v for k, v in router.state_dict().items()})
    folder = tmp_path / "adapters" / "nano-rds"
    save_adapter(folder, "rds", "nano", base_sample(segmenter), export)
    monkeypatch.setattr(adapter_file, "BUNDLED", folder.parent)
    return folder


@pytest.fixture
def beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first twelve frames of the clip, in its place."""
    folder = tmp_path / "beginning"
    folder.mkdir()
    with open_video(CLIP / "clip.mp4") as video:
        for index, frame in video.frames(0, 12):
            Image.fromarray(frame).save(folder / f"{index:02d}.png", compress_level=1)
    monkeypatch.setattr(demo_runs, "VIDEO", folder)
    return folder


@pytest.mark.usefixtures("beginning", "bundled")
def test_the_bundled_submodel_is_shown_beside_the_full_model(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "demo"
    code, text, err = run("demo", "--image-size", 128, "--budget", 0.6, "--out", out, "--json")
    assert code == 0, err
    report = json.loads(text)
    told = report["submodel"]
    frames = report["frames"]
    assert told["adapter"] == "nano-rds"
    # Eight of the fourteen blocks, and all on the first frame.
    expected = (14 + 8 * (frames - 1)) / (14 * frames)
    assert told["blocks_run"] == pytest.approx(expected, abs=1e-3)
    assert 0 <= told["least_agreement"] <= told["agreement"] < 1 and 0 <= told["iou"] <= 1
    assert len(told["speedup_of_rounds"]) == 3 and told["speedup"] > 0
    assert told["full_frame_ms"] / told["frame_ms"] == pytest.approx(told["speedup"], rel=0.02)
    files = {name: Path(path) for name, path in report["files"].items()}
    assert {"sheet", "submodel masks", "submodel overlay", "submodel blocks"} <= set(files)
    assert all(path.exists() for path in files.values())
    assert files["submodel blocks"].parent == out / "submodel"
    with Image.open(files["sheet"]) as sheet:
        assert sheet.height > sheet.width * 0.5, "eight frames of two models, four in a row"


@pytest.mark.usefixtures("beginning", "bundled")
def test_both_models_are_told_of_in_words(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record(0, 1, 2), record(1, 1, 2), record(2, 3, 2)]
    others = [record(0, 1, 2), record(1, 1, 1), record(2, 3, 2)]
    report = {"frames": 3, "seconds": 1.0, "fps": 3.0, "interrupted": False, "objects": []}
    report |= {"blocks_run": 1.0, "iou": 0.75}

    def track_clip(out: Path, prompt: Any, model: Model, *_: Any) -> ClipRun:
        found = others if model.adapter else records
        return ClipRun({**report, "iou": 0.5 if model.adapter else 0.75}, {}, found)

    monkeypatch.setattr(demo_runs, "track_clip", track_clip)
    monkeypatch.setattr(demo_runs, "median_seconds", lambda m, *_, **__: 0.1 if m.adapter else 0.15)
    code, text, err = run("demo", "--image-size", 128, "--out", tmp_path)
    assert code == 0, err
    words = " ".join(text.split())
    assert "full model 100% 150.0 0.750" in words and "nano-rds 100% 100.0 0.500" in words
    assert "nano-rds is 1.50 times as fast (measured in 3 turns each" in words
    assert "agree with the full model's by 0.750 mean IoU (worst frame 0.500)" in words


def record(index: int, left: int, width: int) -> FrameRecord:
    mask = np.zeros((360, 640), bool)
    mask[:4, left : left + width] = True
    zero = np.zeros(1, np.float32)
    return FrameRecord(
        index, mask.shape, (1,), (encode_rle(mask),), zero, zero, zero, zero.astype(int),
        np.ones(14, bool),
    )  # fmt: skip
