"""Drawn shapes to track: ellipses, polygons and blobs, some with holes, filled with a texture."""

from __future__ import annotations

import numpy as np

from tempomask.data.motion import ImageArray
from tempomask.data.opencv import cv2
from tempomask.data.stills import Cutout

SIDE = 128
# Of the square, that a hole leaves.
LEAST_SHARE = 0.01


def drawn_shape(rng: np.random.Generator, texture: ImageArray) -> Cutout:
    """A shape of 128 x 128 filled with a part of the texture, a colour field, stripes or noise."""
    mask = np.zeros((SIDE, SIDE), np.uint8)
    cv2.fillPoly(mask, [_outline(rng).astype(np.int32)], 1)
    if rng.random() < 0.2:
        radius = int(rng.integers(SIDE // 16, SIDE // 8))
        x, y = (int(v) for v in SIDE // 2 + rng.integers(-radius, radius + 1, 2))
        pierced = mask.copy()
        cv2.circle(pierced, (x, y), radius, 0, -1)
        # A slim shape may be little more than where its hole would be.
        mask = pierced if pierced.mean() > LEAST_SHARE else mask
    return Cutout(_filling(rng, texture), mask, "shape")


def _outline(rng: np.random.Generator) -> np.ndarray:
    """A closed line (P, 2) around the middle: an ellipse, a polygon or a smooth blob."""
    kind = rng.random()
    if kind < 0.35:
        # One corner in each equal sector, so that the polygon is never degenerate.
        corners = int(rng.integers(3, 11))
        angles = (np.arange(corners) + rng.uniform(0.1, 0.9, corners)) * 2 * np.pi / corners
        radius = rng.uniform(0.2, 0.48, corners)
    else:
        angles = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        waves = np.arange(2, 6)[:, None]
        bumps = rng.normal(size=(4, 1)) * np.cos(waves * angles + rng.uniform(0, 6.3, (4, 1)))
        radius = 0.3 * np.exp((bumps / waves).sum(axis=0) * (0.0 if kind < 0.6 else 0.7))
        radius *= 0.47 / radius.max()
    line = np.stack([np.cos(angles), np.sin(angles)], axis=1) * radius[:, None] * SIDE
    flatten = np.diag([1.0, rng.uniform(0.35, 1.0)])
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return SIDE // 2 + line @ flatten @ rotation


def _filling(rng: np.random.Generator, texture: ImageArray) -> ImageArray:
    kind = rng.random()
    if kind < 0.5:
        height, width = (max(SIDE, extent) for extent in texture.shape[:2])
        if (height, width) != texture.shape[:2]:
            texture = cv2.resize(texture, (width, height))  # type: ignore[assignment]
        y, x = int(rng.integers(height - SIDE + 1)), int(rng.integers(width - SIDE + 1))
        return texture[y : y + SIDE, x : x + SIDE]
    if kind < 0.8:
        cells = rng.integers(0, 256, (*rng.integers(1, 6, size=2), 3)).astype(np.uint8)
        smooth = cv2.INTER_LINEAR if rng.random() < 0.6 else cv2.INTER_NEAREST
        return cv2.resize(cells, (SIDE, SIDE), interpolation=smooth)  # type: ignore[return-value]
    colours = rng.integers(0, 256, (2, 3)).astype(np.float32)
    if kind < 0.9:
        x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
        turn, period = rng.uniform(0, np.pi), rng.uniform(8, 40)
        share = (np.sin((x * np.cos(turn) + y * np.sin(turn)) * 2 * np.pi / period) > 0) * 1.0
    else:
        grains = int(rng.integers(16, SIDE))
        share = cv2.resize(rng.random((grains, grains)), (SIDE, SIDE))
    mixed = colours[0] + (colours[1] - colours[0]) * share[..., None]
    return mixed.astype(np.uint8)
