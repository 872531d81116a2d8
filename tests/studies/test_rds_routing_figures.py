"""Figures of routing: drawn, refused, and true to their data."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from studies.rds.figures import take_comparison
from studies.rds.routing_figures import (
    TINT,
    save_activation_profiles,
    save_budget_rates,
    save_frame_strip,
    save_importances,
    save_router_heat,
    save_video_scores,
    tinted,
)
from tempomask.adaptation.importance import Importance
from tempomask.errors import InputError

RNG = np.random.default_rng(0)
BLOCKS = RNG.random((5, 7)) < 0.6
FRAMES = [RNG.integers(0, 255, (24, 32, 3)).astype(np.uint8) for _ in range(5)]
MASKS = [np.pad(np.ones((8, 8), int), ((4, 12), (10, 14))) for _ in range(5)]
FIGURES: dict[str, Callable[[Path], None]] = {
    "profiles": lambda path: save_activation_profiles(path, {"a": BLOCKS, "b": ~BLOCKS}, (0, 6)),
    "budgets": lambda path: save_budget_rates(path, {0.4: BLOCKS, 0.9: BLOCKS | True}),
    "importances": lambda path: save_importances(
        path, Importance((0.0, 3.0, -0.2, 1.0, 0.0), (0.0, 0.3, 0.2, 0.4, 0.0), (0, 4))
    ),
    "videos": lambda path: save_video_scores(
        path, {"static-a": {"dog": 70.0, "cows": 50.0}, "rds": {"dog": 71.0, "cows": 62.0}}
    ),
    "heat": lambda path: save_router_heat(path, range(5), RNG.random((5, 7)), BLOCKS),
    "heat-alone": lambda path: save_router_heat(path, [3], RNG.random((1, 7))),
    "strip": lambda path: save_frame_strip(path, range(5), FRAMES, MASKS, BLOCKS),
    "strips": lambda path: save_frame_strip(
        path, range(5), FRAMES, MASKS, BLOCKS, {"PBD": MASKS, "full": MASKS}
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_drawn_whole(tmp_path: Path, name: str) -> None:
    FIGURES[name](tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.format == "PNG" and min(image.size) > 60
        assert len(image.convert("RGB").getcolors(10**7) or ()) > 10
    assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]


def test_more_methods_make_a_taller_strip(tmp_path: Path) -> None:
    heights = []
    for name in ("strip", "strips"):
        FIGURES[name](tmp_path / "figure.png")
        heights.append(Image.open(tmp_path / "figure.png").size[1])
    assert heights[1] > 1.5 * heights[0]


def test_a_comparison_gives_its_finished_points(tmp_path: Path) -> None:
    def finish(name: str, done: bool = True) -> str:
        folder = tmp_path / "points" / name
        folder.mkdir(parents=True)
        importance = {"global_drops": [0, 2, 1, 0], "local_changes": [0, 0.1, 0.3, 0]}
        settings = {"importance": {**importance, "always_on": [0, 3]}}
        (folder / "adapter.json").write_text(json.dumps({"settings": settings}))
        if done:
            (folder / "point.json").write_text(json.dumps({"per_sequence": {"dog": 70.0}}))
        return str(folder)

    own, cheaper = finish("rds-0.6-seed1"), finish("rds-0.4-seed1")
    static, _ = finish("static-a-0.6-seed1"), finish("pbd-0.6-seed1", done=False)
    finish("rds-worth-0.6-seed1"), finish("rds-0.6-seed2")
    asked = {"method": "rds", "against": "pbd,static-a", "cost": 0.6, "seed": 1}
    given = Namespace(comparison=tmp_path, **asked)
    take_comparison(given, tmp_path)
    assert (given.adapter, given.beside) == (own, [static])
    assert given.budget_adapters == [cheaper, own]
    assert {path.name for path in tmp_path.glob("*.png")} == {"importances.png", "videos.png"}
    given.method = "adavit"
    with pytest.raises(InputError, match="adavit-0.6-seed1"):
        take_comparison(given, tmp_path)


def test_a_tint_keeps_the_background_and_mixes_the_object() -> None:
    shown = tinted(FRAMES[0], MASKS[0])
    outside = MASKS[0] == 0
    assert np.array_equal(shown[outside], FRAMES[0][outside])
    mixed = shown[~outside].astype(float) - (1 - TINT) * FRAMES[0][~outside]
    assert np.ptp(mixed, axis=0).max() <= 1.0  # one colour, but for rounding


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda p: save_activation_profiles(p, {}), "at least one video"),
        (
            lambda p: save_activation_profiles(p, {"a": BLOCKS, "b": BLOCKS[:, :3]}),
            "same number of blocks",
        ),
        (lambda p: save_video_scores(p, {}), "at least one method"),
        (lambda p: save_budget_rates(p, {0.5: np.zeros((0, 7))}), r"got \(0, 7\)"),
        (lambda p: save_router_heat(p, [0, 1], BLOCKS), r"got \(5, 7\) for 2 frames"),
        (lambda p: save_router_heat(p, range(5), BLOCKS, BLOCKS[:2]), "do not fit weights"),
        (lambda p: save_frame_strip(p, range(5), FRAMES, MASKS[:3], BLOCKS), "as many frames"),
        (lambda p: save_frame_strip(p, [], [], [], np.zeros((0, 7))), "as many frames"),
        (
            lambda p: save_frame_strip(p, range(5), FRAMES, [m[:5] for m in MASKS], BLOCKS),
            "does not fit an image",
        ),
    ],
)
def test_bad_input_leaves_no_file(
    tmp_path: Path, draw: Callable[[Path], Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        draw(tmp_path / "figure.png")
    assert not list(tmp_path.iterdir())
