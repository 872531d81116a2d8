"""Fixtures that tests of several folders share."""

from __future__ import annotations

import json
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tempomask.models.instances.config import (
    InstanceConfig,
    MemoryTrackerConfig,
    PixelDecoderConfig,
    QueryDecoderConfig,
    ReferringTrackerConfig,
    RefinerConfig,
    ResNetConfig,
    SwinConfig,
)
from tempomask.rle import encode_rle

ROOT = Path(__file__).parent.parent
# The same kernels on every machine; those of the other choice are tested in tests/engine.
os.environ.setdefault("TEMPOMASK_KERNELS", "default")
# Folders and files whose tests train, compile, or run whole networks and commands.
SLOW = (
    "adaptation", "baselines", "benchmarks", "cli", "contracts", "engine", "export", "instances",
    "matching", "parity", "propagation", "recipes", "reports", "studies", "training",
    "batch/test_ray.py", "compat/test_sam2.py", "evaluation/test_video_instances.py",
    "evaluation/test_vos.py", "evaluation/test_with_a_network.py", "routing/test_sampling.py",
    "test_end_to_end.py", "test_examples.py", "test_imports.py::test_every_module",
    "test_imports.py::test_using_the_api", "test_model.py", "test_site.py", "test_warmup.py",
    "tracking/test_official_predictor.py", "tracking/test_samurai_sessions.py",
    "tracking/test_session.py", "weights/test_loading.py",
    "web/test_command.py", "web/test_security.py", "web/test_server.py",
)  # fmt: skip


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import nothing that is left out: that alone would take longer than all that is run."""
    path = collection_path.relative_to(ROOT / "tests").as_posix()
    return True if "not slow" in config.option.markexpr and path.startswith(SLOW) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, for `make test-fast`; begin with what shares exports, 10 s of work each.

    A worker that has nothing left takes the last tests of another: exports would be made twice.
    """
    for item in items:
        if item.nodeid.removeprefix("tests/").startswith(SLOW):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: not item.nodeid.startswith("tests/export/"))


MakeInstanceConfig = Callable[..., InstanceConfig]


@pytest.fixture(scope="session")
def instance_config() -> MakeInstanceConfig:
    """A maker of small instance segmenters: of DVIS++'s, DVIS's, CTVIS's tracker or none."""

    def make(
        swin: bool = False,
        tracker: bool = False,
        memory: bool = False,
        dvis: bool = False,
        offline: bool = False,
    ) -> InstanceConfig:
        return InstanceConfig(
            name="tiny",
            backbone=SwinConfig(12, (2, 1, 2, 2), (1, 2, 3, 4), 4)
            if swin
            else ResNetConfig(8, (16, 32, 48, 64), (1, 2, 1, 1)),
            classes=("cat", "dog", "fox"),
            hidden_dim=32,
            pixel_decoder=PixelDecoderConfig(2, 4, 16, 4),
            query_decoder=QueryDecoderConfig(4, 4, 16, 7),
            referring_tracker=ReferringTrackerConfig(2, 4, 16, None if dvis else 24)
            if tracker or dvis
            else None,
            memory_tracker=MemoryTrackerConfig(24, slots=12) if memory else None,
            refiner=RefinerConfig(2, 4, 16) if offline else None,
            short_side=64,
            long_side=128,
        )

    return make


MakeVideoSet = Callable[..., Path]


@pytest.fixture
def video_set(tmp_path: Path) -> MakeVideoSet:
    """A maker of small sets in YouTube-VIS format: bright squares that move over dark noise.

    Two videos of five frames of 32 x 48 pixels (height, width); categories 3 "cat" and 7 "dog". In
    each video a cat is always seen and a dog from the third frame on. `change` edits the content
    before it is written.
    """

    def make(change: Callable[[dict[str, Any]], None] | None = None, frames: int = 5) -> Path:
        content: dict[str, Any] = {
            "videos": [],
            "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
            "annotations": [],
        }
        rng = np.random.default_rng(0)
        for video_id in (1, 2):
            masks = {3: [], 7: []}
            names = [f"video{video_id}/{t:05d}.png" for t in range(frames)]
            (tmp_path / f"JPEGImages/video{video_id}").mkdir(parents=True, exist_ok=True)
            for t, name in enumerate(names):
                frame = rng.integers(0, 60, (32, 48, 3), dtype=np.uint8)
                for category, (top, colour) in {3: (4, 220), 7: (18, 150)}.items():
                    mask = np.zeros((32, 48), dtype=bool)
                    mask[top : top + 10, 4 + 3 * t : 16 + 3 * t] = category == 3 or t >= 2
                    frame[mask] = colour
                    masks[category].append(mask)
                Image.fromarray(frame).save(tmp_path / "JPEGImages" / name)
            size = {"width": 48, "height": 32, "length": frames}
            content["videos"].append({"id": video_id, "file_names": names, **size})
            for category, shown in masks.items():
                content["annotations"].append(
                    {
                        "id": len(content["annotations"]) + 1,
                        "video_id": video_id,
                        "category_id": category,
                        "iscrowd": 0,
                        "segmentations": [encode_rle(m) if m.any() else None for m in shown],
                        "areas": [int(m.sum()) if m.any() else None for m in shown],
                    }
                )
        if change is not None:
            change(content)
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(content))
        return path

    return make


@pytest.fixture
def run_script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs a file of the repository as from the command line; returns the JSON at its --out."""

    def call(script: str, *arguments: str | Path) -> Any:
        out = tmp_path / "report.json"
        monkeypatch.setattr(sys, "argv", [script, *map(str, arguments), "--out", str(out)])
        threads = torch.get_num_threads()
        try:
            runpy.run_path(str(ROOT / script), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        return json.loads(out.read_text())

    return call


@pytest.fixture
def save_pair() -> Callable[..., None]:
    """Saves an image of what labels (H, W) mark, and the labels: by default in DAVIS's layout."""

    def save(
        root: Path,
        name: str,
        labels: NDArray[np.uint8],
        folders: tuple[str, str] = ("JPEGImages", "Annotations"),
    ) -> None:
        frame = np.stack([30 + 200 * labels, 90 - 60 * labels, 60 + 30 * labels], axis=2)
        for folder, values, ending in zip(folders, (frame, labels), (".jpg", ".png"), strict=True):
            path = root / folder / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)

    return save
