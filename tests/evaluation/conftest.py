"""Tiny DAVIS roots whose frames show their own label maps, and a model that reads them off."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tempomask.prompts import Prompt
from tempomask.results import FrameArrays, FrameResult

HEIGHT, WIDTH = 24, 32
# Grey value of object k in the frames is k times this.
STEP = 40


def frame_of(labels: NDArray[np.integer]) -> NDArray[np.uint8]:
    return np.repeat((labels * STEP).astype(np.uint8)[..., None], 3, axis=2)


def moving(length: int, objects: int = 1, speed: int = 1) -> list[NDArray[np.uint8]]:
    """Label maps of squares that move to the right."""
    clip = []
    for t in range(length):
        labels = np.zeros((HEIGHT, WIDTH), np.uint8)
        for k in range(objects):
            labels[2 + 7 * k : 8 + 7 * k, 1 + speed * t : 8 + speed * t] = k + 1
        clip.append(labels)
    return clip


@pytest.fixture
def davis(tmp_path: Path) -> Callable[..., Path]:
    """davis(name=[label maps], ...): a root with these sequences; frames are lossless."""

    def make(**sequences: list[NDArray[np.uint8]]) -> Path:
        root = tmp_path / "DAVIS"
        for name, clip in sequences.items():
            for part in ("JPEGImages", "Annotations"):
                (root / part / "480p" / name).mkdir(parents=True)
            for index, labels in enumerate(clip):
                file = f"{name}/{index:05d}.png"
                Image.fromarray(frame_of(labels)).save(root / "JPEGImages" / "480p" / file)
                Image.fromarray(labels).save(root / "Annotations" / "480p" / file)
        return root

    return make


class ReadingSession:
    """Tracks by reading the label map off the frame of `delay` steps before."""

    def __init__(self, delay: int, extra_id: int | None, **options: Any) -> None:
        self.delay, self.extra_id, self.options = delay, extra_id, options
        self.prompts: list[Prompt] = []
        self.corrections: list[dict[str, Any]] = []
        self.seen: list[NDArray[np.uint8]] = []

    def add(self, prompt: Prompt) -> None:
        prompt.check_inside(self.options["size"])
        self.prompts.append(prompt)

    def result(self, labels: NDArray[np.integer], index: int) -> FrameResult:
        ids = tuple(prompt.object_id for prompt in self.prompts)
        masks = [labels == object_id for object_id in ids]
        if self.extra_id is not None:
            ids, masks = (*ids, self.extra_id), [*masks, labels == 0]
        shown = np.stack(masks) if masks else np.zeros((0, *labels.shape), bool)
        logits = np.where(shown, 5, -5).astype(np.float32)
        ones = np.ones(len(ids), np.float32)
        blocks = np.array([True, index % 2 == 0])
        return FrameResult(index, labels.shape, ids, FrameArrays(logits, ones, ones), blocks)

    def step(self, frame: NDArray[np.uint8]) -> FrameResult:
        self.seen.append(frame[..., 0] // STEP)
        index = len(self.seen) - 1
        return self.result(self.seen[max(index - self.delay, 0)], index)

    def correct(self, **given: Any) -> FrameResult:
        self.corrections.append(given)
        return self.result(self.seen[-1], len(self.seen) - 1)


class ReadingModel:
    """Makes `ReadingSession`s and keeps them in `sessions`."""

    name = "reader"
    image_size = 64
    device = torch.device("cpu")
    dtype = torch.float32

    def __init__(self, delay: int = 0, extra_id: int | None = None) -> None:
        self.delay, self.extra_id = delay, extra_id
        self.sessions: list[ReadingSession] = []

    def session(self, **options: Any) -> ReadingSession:
        self.sessions.append(ReadingSession(self.delay, self.extra_id, **options))
        return self.sessions[-1]


@pytest.fixture
def reading_model() -> type[ReadingModel]:
    return ReadingModel


@pytest.fixture
def clip() -> Callable[..., list[NDArray[np.uint8]]]:
    return moving
