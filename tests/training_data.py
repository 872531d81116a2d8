"""A training folder in miniature: bright objects on dark, noisy images."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

STILLS = ("person-ccp", "person-290", "horse-weizmann", "nuclei-dsb2018", "regions-bsds500")
# Of coco-mini: the first and the eleventh by name are held out.
SCENES = 12
DARK, BRIGHT = 60, 230


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, quality=95)


def write_training_folder(folder: Path, object_value: int = 1, num_frames: int = 12) -> Path:
    """Two images a set, scenes of two objects, and five sequences.

    object_value 0 leaves every label without an object.
    """
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
    _write_scenes(folder, object_value, image)
    for name in ("girls", "band", "bus"):
        several = "davis17-schoolgirls" if name == "girls" else "xiph8"
        for index in range(num_frames):
            ids = np.zeros((120, 150), np.uint8)
            ids[30:70, 20 + 2 * index : 60 + 2 * index] = object_value
            ids[60:100, 90:130] = 2 * object_value
            save(folder / several / f"JPEGImages/{name}/{index:05d}.jpg", image(ids))
            save(folder / several / f"Annotations/{name}/{index:05d}.png", ids)
    for name in ("cow", "dog"):
        for index in range(num_frames):
            mask = np.zeros((140, 180), np.uint8)
            mask[40:90, 30 + 3 * index : 90 + 3 * index] = object_value
            davis = folder / "davis16-train-256"
            save(davis / f"JPEGImages/{name}/{index:05d}.jpg", image(mask))
            save(davis / f"Annotations/{name}/{index:05d}.png", mask)
    return folder


def _write_scenes(
    folder: Path, object_value: int, image: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Two bright squares an image; in the first frames each has a pair of its own."""
    categories = {}
    for name, count in (("coco-mini", SCENES), ("davis17-challenge-first", 2)):
        for index in range(count):
            ids = np.zeros((120, 150), np.uint8)
            ids[20:60, 10:60] = object_value
            ids[50:100, 80:130] = 2 * object_value
            save(folder / name / f"images/{index:03d}.png", image(ids))
            save(folder / name / f"labels/{index:03d}.png", ids)
            categories[f"{index:03d}.png"] = {"1": "cup", "2": "ball" if index % 2 else "cup"}
    (folder / "coco-mini" / "categories.json").write_text(json.dumps(categories))
