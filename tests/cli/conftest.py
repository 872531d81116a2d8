"""A tiny model on disk, a small video as a folder of images, and the command line to call."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tempomask.cli import main as cli
from tempomask.models.config import (
    HybridConfig,
    MaskDecoderConfig,
    MemoryAttentionConfig,
    SegmenterConfig,
)
from tempomask.models.segmenter import Segmenter
from tempomask.weights import save_segmenter

FRAMES, HEIGHT, WIDTH = 7, 32, 48

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A randomly initialised segmenter whose objects are always present, so that masks exist."""
    torch.manual_seed(0)
    config = SegmenterConfig(
        name="nano",
        encoder=HybridConfig(dim=32, num_heads=2, depth=2),
        image_size=64,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=MemoryAttentionConfig(layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=4, feedforward_dim=32, iou_hidden_dim=16),
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_segmenter(Segmenter(config), path)
    return path


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bright square that moves to the right, as PNG files."""
    folder = tmp_path_factory.mktemp("video") / "square"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        frame = rng.integers(0, 60, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        frame[8:24, 4 + 3 * index : 20 + 3 * index] = 220
        Image.fromarray(frame).save(folder / f"{index}.png")
    return folder


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Call the command line: exit code, stdout, stderr."""

    def call(*arguments: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


@pytest.fixture
def track(run: Run, video: Path, checkpoint: Path) -> Callable[..., dict[str, Any]]:
    """`tempomask track` on the small video, which has to succeed; its JSON."""

    def call(*arguments: object, code: int = 0) -> dict[str, Any]:
        found, out, err = run("track", video, "--checkpoint", checkpoint, "--json", *arguments)
        assert found == code, err
        return json.loads(out)

    return call
