"""Tiny copies of the layouts of data sets, and scorers derived anew from their descriptions.

The scorers share nothing with the package: OpenCV and scikit-image do the morphology.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

import cv2
import numpy as np
from PIL import Image
from skimage.morphology import disk

Maps = dict[int, np.ndarray]
HEIGHT, WIDTH = 130, 170


def blobs(seed: int, ids: Iterable[int], length: int, shake: int = 0) -> list[np.ndarray]:
    """Label maps (uint16) of rectangles that move; shake: pixels by which they are off."""
    rng, noise = np.random.default_rng(seed), np.random.default_rng(seed + 1000)
    clip = [np.zeros((HEIGHT, WIDTH), np.uint16) for _ in range(length)]
    for object_id in ids:
        top, left = rng.integers(5, 60, 2)
        height, width = rng.integers(12, 50, 2)
        step = rng.integers(-4, 8, 2)
        for t, labels in enumerate(clip):
            dy, dx = noise.integers(-shake, shake + 1, 2) if shake else (0, 0)
            y, x = max(top + step[0] * t + dy, 0), max(left + step[1] * t + dx, 0)
            labels[y : y + height, x : x + width] = object_id
    return clip


def save(path: Path, labels: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if labels.max() > 255:
        Image.fromarray(labels.astype(np.uint16)).save(path)
        return
    image = Image.fromarray(labels.astype(np.uint8))
    image.putpalette(np.random.default_rng(0).integers(1, 255, 768, np.uint8).tobytes())
    image.save(path)


def save_frames(
    folder: Path, stems: Iterable[str], size: tuple[int, int] = (HEIGHT, WIDTH)
) -> None:
    folder.mkdir(parents=True)
    for stem in stems:
        Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(folder / f"{stem}.jpg")


def save_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def _edge(mask: np.ndarray) -> np.ndarray:
    """A pixel differs from its right, lower or lower right neighbour; the border goes on."""
    grown = np.pad(mask, ((0, 1), (0, 1)), mode="edge")
    here = grown[:-1, :-1]
    return (here != grown[:-1, 1:]) | (here != grown[1:, :-1]) | (here != grown[1:, 1:])


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum()) if (a | b).any() else 1.0


def boundary(a: np.ndarray, b: np.ndarray, radius: float | None = None) -> float:
    if radius is None:
        radius = math.ceil(0.008 * np.linalg.norm(a.shape))
    first, second = _edge(a), _edge(b)
    if not first.any() or not second.any():
        return float(first.any() == second.any())
    kernel = disk(radius)
    near = [cv2.dilate(edge.astype(np.uint8), kernel) > 0 for edge in (first, second)]
    precision = (first & near[1]).sum() / first.sum()
    recall = (second & near[0]).sum() / second.sum()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


Pairs = list[tuple[np.ndarray, np.ndarray]]  # predicted and true masks of scored frames


def j_and_f(pairs: Pairs) -> tuple[float, float]:
    return (
        float(np.mean([jaccard(p, t) for p, t in pairs])),
        float(np.mean([boundary(p, t) for p, t in pairs])),
    )


def lvos_v(pairs: Pairs) -> float:
    both = np.array([(jaccard(p, t) + boundary(p, t)) / 2 for p, t in pairs])
    return math.sqrt(round(float(np.sum((both - both.mean()) ** 2) / len(both)), 4))


def mose2(pairs: Pairs) -> dict[str, float | None]:
    """One object by MOSEv2's description, frame by frame."""
    frames = []
    for predicted, true in pairs:
        union = (predicted | true).sum()
        j = ((predicted & true).sum() + 1) / (union + 1) if union else 1.0
        cap = 0.008 * np.linalg.norm(true.shape)
        radius = min(math.ceil(0.1 * math.sqrt(true.sum())), cap) if true.any() else cap
        new = boundary(predicted, true, radius)
        old = boundary(predicted, true, math.ceil(cap)) if radius < cap else new
        frames.append((j, new, old, not true.any()))
    found: dict[str, float | None] = {
        name: float(np.mean([frame[k] for frame in frames]))
        for k, name in enumerate(("J", "F_new", "F"))
    }
    for name, wanted in (("disappear", True), ("reappear", False)):
        runs: list[list[float]] = []
        for before, now in itertools.pairwise(frames):
            if now[3] == wanted and before[3] != wanted:
                runs.append([])
            if now[3] == wanted and runs:
                runs[-1].append((now[0] + now[1]) / 2)
        found[name] = float(np.mean([np.mean(run) for run in runs])) if runs else None
    return found


def pairs_of(
    predicted: Mapping[int, np.ndarray], true: Mapping[int, np.ndarray], object_id: int
) -> Pairs:
    return [(predicted[k] == object_id, true[k] == object_id) for k in sorted(true)]
