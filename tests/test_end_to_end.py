"""The bundled model on the bundled clip: real images, exact masks, the public calls."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tempomask
from tempomask import Prompt, Routing, load

CLIP = Path(tempomask.__file__).parent / "assets" / "clip"
FRAMES = 20


@pytest.fixture(scope="module")
def truth() -> np.ndarray:
    """Exact masks (T, H, W) of the clip."""
    stored = np.load(CLIP / "masks.npz")
    masks = np.unpackbits(stored["packed"], axis=-1)[..., : stored["shape"][-1]]
    return masks.astype(bool)


def test_nano_follows_the_saucer(truth: np.ndarray) -> None:
    model = load("nano")
    overlaps = []
    for result in model.track(CLIP / "clip.mp4", Prompt(mask=truth[0]), frames=range(FRAMES)):
        mask, wanted = result.masks[0], truth[result.index]
        overlaps.append((mask & wanted).sum() / (mask | wanted).sum())
        assert result.blocks.all()
    assert len(overlaps) == FRAMES
    assert np.mean(overlaps) > 0.85


def test_half_of_the_memory_attention_gives_nearly_the_same_masks(truth: np.ndarray) -> None:
    model, video = load("nano"), CLIP / "clip.mp4"
    prompt = Prompt(mask=truth[0])
    whole = [r.masks[0] for r in model.track(video, prompt, frames=range(FRAMES))]
    half = model.track(video, prompt, frames=range(FRAMES), routing=Routing(memory_budget=0.5))
    for mask, result in zip(whole, half, strict=True):
        assert (mask & result.masks[0]).sum() / (mask | result.masks[0]).sum() > 0.95
