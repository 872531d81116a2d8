"""A tiny recipe and tiny clips, so that training tests take seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from tempomask.data.clips import Clip, ClipBatch, collate
from tempomask.models.config import HybridConfig, MaskDecoderConfig, segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.training.recipe import Recipe, StepKind

SIDE = 64


class DiskClips(torch.utils.data.Dataset[Clip]):
    """A bright disk that drifts over noise for so many frames; clip i depends on i alone."""

    def __init__(self, length: int = 3) -> None:
        self.length = length

    def __getitem__(self, index: int) -> Clip:
        rng = np.random.default_rng(index)
        frames, masks = [], []
        x, y = rng.integers(20, 44, size=2)
        for step in range(self.length):
            mask = np.zeros((SIDE, SIDE), np.uint8)
            cv2.circle(mask, (int(x) + 2 * step, int(y)), 12, 1, -1)
            noise = rng.integers(0, 60, (SIDE, SIDE, 3)).astype(np.uint8)
            frames.append(np.where(mask[..., None] > 0, np.uint8(220), noise))
            masks.append(mask)
        return Clip(np.stack(frames), np.stack(masks)[None], "disk")

    def __len__(self) -> int:
        return 10_000


class DiskBatches(torch.utils.data.Dataset[ClipBatch]):
    """Item i is the batch of step i, of the kind that the recipe draws for it."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, step: int) -> ClipBatch:
        kind, _ = self.recipe.drawn(step)
        clips = DiskClips(kind.frames)
        return collate([clips[100 * step + index] for index in range(kind.clips)])


def tiny_segmenter(recipe: Recipe) -> Segmenter:
    """nano's parts at a few channels, randomly initialised from the recipe's seed."""
    torch.manual_seed(recipe.seed)
    nano = segmenter_config("nano")
    config = replace(
        nano,
        encoder=HybridConfig(dim=32, num_heads=2, depth=2, stem=(1, 1, 1, 1, 1)),
        image_size=SIDE,
        hidden_dim=32,
        memory_dim=16,
        memory_attention=replace(nano.memory_attention, layers=1, feedforward_dim=32),
        mask_decoder=MaskDecoderConfig(num_heads=2, feedforward_dim=32, iou_hidden_dim=16),
    )
    return Segmenter(config)


@pytest.fixture
def clips() -> DiskClips:
    return DiskClips()


@pytest.fixture
def segmenter(recipe: Recipe) -> Segmenter:
    return tiny_segmenter(recipe)


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        kinds=(StepKind(0.5, 3, 1, 1), StepKind(0.5, 2, 3, 1)),
        image_sizes=(SIDE,),
        steps=6,
        decay_steps=2,
        warmup_steps=2,
        save_every=3,
        validate_every=6,
        frozen_stem_stages=3,
        teacher=0.0,
        validation=("disk",),
        validation_size=SIDE,
    )


@pytest.fixture
def data_root(tmp_path: Path) -> Path:
    """A folder with one validation sequence in the training set's layout."""
    clip = DiskClips()[7]
    davis = tmp_path / "data" / "davis16-train-256"
    for part in ("JPEGImages", "Annotations"):
        (davis / part / "disk").mkdir(parents=True)
    for index in range(3):
        image = Image.fromarray(clip.frames[index])
        image.save(davis / "JPEGImages" / "disk" / f"{2 * index:05d}.jpg")
        image.save(davis / "JPEGImages" / "disk" / f"{2 * index + 1:05d}.jpg")
        for number in (2 * index, 2 * index + 1):
            mask = Image.fromarray(clip.masks[0, index])
            mask.save(davis / "Annotations" / "disk" / f"{number:05d}.png")
    return tmp_path / "data"
