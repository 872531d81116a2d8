"""Charts: that what is drawn is what was given, and what cannot be drawn."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tempomask.errors import InputError
from tempomask.io.overlay import object_color
from tempomask.io.records import FrameRecord
from tempomask.reports.figures import save_block_chart, save_run_chart

RAN, SKIPPED = (0x2F, 0x6F, 0xB2), (0xE3, 0xE8, 0xEE)


def record(index: int, ids: tuple[int, ...], blocks: int = 12) -> FrameRecord:
    return FrameRecord(
        index=index,
        size=(10, 20),
        ids=ids,
        encodings=(),
        boxes=np.zeros((len(ids), 4), np.float32),
        scores=np.array([300.0 * (-1) ** index / i**6 for i in ids], np.float32),
        predicted_iou=np.ones(len(ids), np.float32),
        areas=np.array([i * (index + 1) for i in ids], np.int64),
        blocks=np.arange(blocks) % 3 != index % 3,
    )


def share(path: Path, color: Any, within: int = 2) -> float:
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    return float((np.abs(pixels - color).max(axis=2) <= within).mean())


@pytest.mark.parametrize("part", [0.0, 0.25, 1.0])
def test_the_area_of_a_colour_is_the_share_of_blocks(tmp_path: Path, part: Any) -> None:
    blocks = np.zeros((40, 8), bool)
    blocks[:, : round(8 * part)] = True
    save_block_chart(tmp_path / "a.png", range(40), blocks)
    ran, skipped = share(tmp_path / "a.png", RAN), share(tmp_path / "a.png", SKIPPED)
    assert ran + skipped > 0.3
    assert ran / (ran + skipped) == pytest.approx(part, abs=0.02)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_frames_that_were_not_tracked_stay_blank(tmp_path: Path) -> None:
    save_block_chart(tmp_path / "whole.png", range(40), np.ones((40, 8)))
    save_block_chart(tmp_path / "gaps.png", [*range(10), *range(30, 40)], np.ones((20, 8)))
    ratio = share(tmp_path / "gaps.png", RAN) / share(tmp_path / "whole.png", RAN)
    assert ratio == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(
    "records",
    [
        [record(i, (1, 2)) for i in range(3)],
        [record(4, (1,))],
        [record(0, ()), record(5, (1, 2, 9))],
        [record(i, tuple(range(1, 30))) for i in range(3)],
        [record(i, (1,), blocks=0) for i in range(3)],
    ],
)
def test_charts_of_any_run(tmp_path: Path, records: Any) -> None:
    save_run_chart(tmp_path / "a.png", records)
    assert share(tmp_path / "a.png", object_color(1)) > 0.0001


def test_charts_can_be_drawn_in_a_thread(tmp_path: Path) -> None:
    work = threading.Thread(target=save_block_chart, args=(tmp_path / "a.png", [0], [[True]]))
    work.start()
    work.join()
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("indices", "blocks", "message"),
    [
        ([], [], "for 0 frames"),
        ([0, 1], [[True]], r"\(1, 1\) for 2 frames"),
        ([0, 1], [[True], [True, False]], "same number of blocks"),
    ],
)
def test_what_is_no_chart(tmp_path: Path, indices: Any, blocks: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        save_block_chart(tmp_path / "a.png", indices, blocks)
    with pytest.raises(InputError, match="for 0 frames"):
        save_run_chart(tmp_path / "a.png", [])


def test_a_chart_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.png"):
        save_block_chart(tmp_path / "missing" / "a.png", [0], [[True]])


def test_blocks_are_shown_only_where_some_were_skipped(tmp_path: Path) -> None:
    records = [record(i, (1, 2)) for i in range(6)]
    save_run_chart(tmp_path / "routed.png", records)
    assert share(tmp_path / "routed.png", RAN) > 0.05
    whole = [replace(one, blocks=np.ones(12, bool)) for one in records]
    save_run_chart(tmp_path / "whole.png", whole)
    assert share(tmp_path / "whole.png", RAN) == 0


def test_lines_in_one_place_are_all_seen_in_the_colours_of_the_overlay(tmp_path: Path) -> None:
    one = [record(i, (1, 2, 3)) for i in range(8)]
    records = [
        replace(r, scores=np.full(3, 9, np.float32), areas=np.full(3, 50), blocks=np.ones(4, bool))
        for r in one
    ]
    colors = {1: (250, 10, 10), 2: (10, 120, 10), 3: (10, 10, 250)}
    save_run_chart(tmp_path / "a.png", records, colors)
    assert all(share(tmp_path / "a.png", color, 40) > 0.001 for color in colors.values())
