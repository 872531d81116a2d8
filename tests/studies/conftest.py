"""A study as from the command line, and a video of what labels mark."""

from __future__ import annotations

import json
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

STUDIES = Path(__file__).parent.parent.parent / "studies"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Runs a file of studies/ as a script; returns the JSON that it writes."""

    def call(script: str, *arguments: str) -> Any:
        out = tmp_path / "report.json"
        monkeypatch.setattr(sys, "argv", [script, *arguments, "--out", str(out)])
        threads = torch.get_num_threads()
        try:
            runpy.run_path(str(STUDIES / script), run_name="__main__")
        finally:
            torch.set_num_threads(threads)
        return json.loads(out.read_text())

    return call


@pytest.fixture
def save_pair() -> Callable[[Path, str, NDArray[np.uint8]], None]:
    """Saves an image of what the labels (H, W) mark, and the labels, in the DAVIS layout."""

    def save(root: Path, name: str, labels: NDArray[np.uint8]) -> None:
        frame = np.stack([30 + 200 * labels, 90 - 60 * labels, 60 + 30 * labels], axis=2)
        for folder, values, ending in (
            ("JPEGImages", frame, ".jpg"),
            ("Annotations", labels, ".png"),
        ):
            path = root / folder / f"{name}{ending}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(values.astype(np.uint8)).save(path)

    return save
