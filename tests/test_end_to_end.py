"""The bundled model on the bundled clip: real images, exact masks, the public calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tempomask
from tempomask import Prompt, Routing, load
from tempomask.results import FrameResult

CLIP = Path(tempomask.__file__).parent / "assets" / "clip"
FRAMES = 20


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Exact masks (T, H, W) of the clip."""
    stored = np.load(CLIP / "masks.npz")
    masks = np.unpackbits(stored["packed"], axis=-1)[..., : stored["shape"][-1]]
    return masks.astype(bool)


@pytest.fixture(scope="module")
def whole(truth: np.ndarray) -> list[FrameResult]:
    """As nano tracks the clip."""
    prompt = Prompt(mask=truth[0])
    return list(load("nano").track(CLIP / "clip.mp4", prompt, frames=range(FRAMES)))


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def test_nano_follows_the_saucer(truth: np.ndarray, whole: list[FrameResult]) -> None:
    assert [result.index for result in whole] == list(range(FRAMES))
    assert all(result.blocks.all() for result in whole)
    assert np.mean([overlap(result.masks[0], truth[result.index]) for result in whole]) > 0.85


def test_half_of_the_memory_attention_gives_nearly_the_same_masks(
    truth: np.ndarray, whole: list[FrameResult]
) -> None:
    frames, routing = range(FRAMES // 2 + 3), Routing(memory_budget=0.5)
    prompt = Prompt(mask=truth[0])
    half = load("nano").track(CLIP / "clip.mp4", prompt, frames=frames, routing=routing)
    for result, one in zip(half, whole, strict=False):
        assert overlap(one.masks[0], result.masks[0]) > 0.95
