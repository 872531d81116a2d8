"""A training folder in miniature: bright objects on dark, noisy images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

STILLS = ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500")
DARK, BRIGHT = 60, 230


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=95)


def write_training_folder(folder: Path, object_value: int = 1, num_frames: int = 12) -> Path:
    """Two images a set and two sequences; object_value 0 leaves every label without an object."""
    rng = np.random.default_rng(0)

    def image(mask: np.ndarray) -> np.ndarray:
        noise = rng.integers(0, DARK, (*mask.shape, 3)).astype(np.uint8)
        noise[mask > 0] = BRIGHT
        return noise

    for name in STILLS:
        for index in range(2):
            label = np.zeros((140, 160), np.uint8)
            label[30:100, 50:110] = object_value
            if name.startswith("regions"):
                label += np.uint8(2)
            target = label == (3 if name.startswith("regions") else object_value)
            save(folder / f"stills-256/{name}/images/{index}.png", image(target))
            save(folder / f"stills-256/{name}/labels/{index}.png", label)
    for name in ("cow", "dog"):
        for index in range(num_frames):
            mask = np.zeros((140, 180), np.uint8)
            mask[40:90, 30 + 3 * index : 90 + 3 * index] = object_value
            davis = folder / "davis16-train-256"
            save(davis / f"JPEGImages/{name}/{index:05d}.jpg", image(mask))
            save(davis / f"Annotations/{name}/{index:05d}.png", mask)
    return folder


@pytest.fixture(scope="session")
def training_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def empty_labels_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_training_folder(tmp_path_factory.mktemp("empty"), object_value=0)
