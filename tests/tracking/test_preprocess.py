"""Frames to network input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tempomask.errors import InputError
from tempomask.frames import checked_frame
from tempomask.tracking.frames import network_input, resize_frame


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (37, 90, 3), dtype=np.uint8)


def test_bicubic_is_pil_as_in_the_official_video_loader(frame: np.ndarray) -> None:
    expected = np.array(Image.fromarray(frame).convert("RGB").resize((32, 32)))
    assert (resize_frame(frame, 32, "bicubic") == expected).all()


@pytest.mark.parametrize("side", [32, 128])
def test_bilinear_is_antialiased(frame: np.ndarray, side: int) -> None:
    expected = np.array(Image.fromarray(frame).resize((side, side), Image.Resampling.BILINEAR))
    resized = resize_frame(frame, side, "bilinear")
    assert resized.shape == (side, side, 3) and resized.dtype == np.uint8
    assert np.abs(resized.astype(int) - expected).max() <= 1


def test_input_is_scaled_and_normalised_as_the_official_loader_does(frame: np.ndarray) -> None:
    square = resize_frame(frame, 32, "bicubic")
    expected = (square / 255.0 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    image = network_input(square, torch.device("cpu"))
    assert image.shape == (1, 3, 32, 32) and image.dtype == torch.float32
    np.testing.assert_allclose(image[0].permute(1, 2, 0).numpy(), expected, atol=2e-6)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        "frame.png",
    ],
)
def test_anything_but_an_rgb_array_is_refused(bad: Any) -> None:
    with pytest.raises(InputError, match=r"give \(H, W, 3\) uint8 in RGB"):
        checked_frame(bad)
