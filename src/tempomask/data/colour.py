"""Random changes of a clip's colours: one for the whole clip, and a slow drift over its frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tempomask.data.motion import ImageArray
from tempomask.data.opencv import cv2

# Rec. 601 luma.
LUMA = np.array([0.299, 0.587, 0.114])
# An orthonormal frame whose first axis is grey: turning the other two changes the hue.
GREY_AXES = np.array([[1, 1, 1], [1, -1, 0], [1, 1, -2]]) / np.sqrt([[3], [2], [6]])


@dataclass(frozen=True)
class ColourJitter:
    """Standard deviations of the changes of colour in a clip.

    Log brightness, offset (of 255), log contrast, saturation, hue (radians), log tint of a channel;
    log brightness drift a frame, and its jitter a frame.

    grey: probability of a clip without colour.
    """

    brightness: float = 0.15
    offset: float = 0.03
    contrast: float = 0.12
    saturation: float = 0.3
    hue: float = 0.12
    tint: float = 0.06
    drift: float = 0.03
    flicker: float = 0.015
    grey: float = 0.06


def vary_colour(
    rng: np.random.Generator, frames: ImageArray, jitter: ColourJitter | None = None
) -> ImageArray:
    """The clip (T, H, W, 3) with one random change of colour, and a drift of brightness."""
    jitter = jitter or ColourJitter()
    colour = _colour_matrix(rng, jitter)
    contrast = np.exp(rng.normal() * jitter.contrast)
    offset = rng.normal() * jitter.offset * 255
    drift = rng.normal() * jitter.drift
    middle = float(frames[0, ::8, ::8].mean())
    varied = np.empty_like(frames)
    for index, frame in enumerate(frames):
        level = np.exp(drift * index + rng.normal() * jitter.flicker)
        matrix = colour * (contrast * level)
        shift = np.full(3, (1 - contrast) * middle * level + offset)
        cv2.transform(frame, np.column_stack([matrix, shift]).astype(np.float32), varied[index])
    return varied


def _colour_matrix(rng: np.random.Generator, jitter: ColourJitter) -> NDArray[np.float64]:
    """(3, 3): hue, then saturation, then brightness and tint."""
    angle = rng.normal() * jitter.hue
    turn = np.eye(3)
    turn[1:, 1:] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    hue = GREY_AXES.T @ turn @ GREY_AXES
    keep = max(0.0, 1 + rng.normal() * jitter.saturation)
    if rng.random() < jitter.grey:
        keep = 0.0
    saturation = keep * np.eye(3) + (1 - keep) * LUMA
    gain = np.exp(rng.normal() * jitter.brightness + rng.normal(size=3) * jitter.tint)
    return np.diag(gain) @ saturation @ hue
