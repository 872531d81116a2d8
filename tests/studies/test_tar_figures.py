"""Figures of query routing are drawn, and refuse what cannot be drawn."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from studies.tar.figures import (
    TradeOff,
    save_layer_trade_off,
    save_layers_against_change,
)
from tempomask.errors import InputError


def colors(path: Path) -> int:
    with Image.open(path) as image:
        return len(np.unique(np.asarray(image.convert("RGB")).reshape(-1, 3), axis=0))


@pytest.mark.parametrize("least", [0.0, 1.0])
def test_layers_against_change(tmp_path: Path, least: float) -> None:
    path = tmp_path / "change.png"
    save_layers_against_change(path, [least, 10, 20, 400], [1, 2, 2, 5], 9, "TAR")
    assert colors(path) > 10
    assert sorted(tmp_path.iterdir()) == [path]


def test_trade_off(tmp_path: Path) -> None:
    path = tmp_path / "trade.png"
    points = [
        TradeOff("1", "fixed layers", 2.0, 30.0, 28.0, 33.0),
        TradeOff("9", "fixed layers", 9.0, 40.0, 37.0, 42.0),
        TradeOff("tar", "TAR", 4.0, 41.0, 39.0, 44.0),
    ]
    save_layer_trade_off(path, points, joined="fixed layers")
    assert colors(path) > 10


def test_nothing_to_draw(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no frames"):
        save_layers_against_change(tmp_path / "a.png", [], [], 9)
    with pytest.raises(InputError, match="nothing to draw"):
        save_layer_trade_off(tmp_path / "b.png", [])
    assert not list(tmp_path.iterdir())


def test_labels_of_near_points_stand_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr("studies.tar.figures.save", lambda figure, path: drawn.append(figure))
    points = [
        TradeOff(f"variant-{i}", "TAR", 2 + 0.01 * i, 30 + 0.01 * i, 28, 33) for i in range(6)
    ]
    save_layer_trade_off(tmp_path / "near.png", points)
    boxes = [text.get_window_extent() for text in drawn[0].axes[0].texts]
    assert len(boxes) == 6
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
