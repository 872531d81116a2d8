"""Overlays and contact sheets, by the colour of their pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tempomask.errors import InputError
from tempomask.io.overlay import contact_sheet, draw_overlay, evenly_spaced, object_color


@pytest.fixture
def frame() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (400, 480, 3), dtype=np.uint8)


def disc(row: int, column: int, radius: int) -> np.ndarray:
    rows, columns = np.mgrid[:400, :480]
    return (rows - row) ** 2 + (columns - column) ** 2 < radius**2


def test_fill_contour_and_background(frame: Any, make_result: Callable[..., Any]) -> None:
    mask = disc(200, 240, 80)
    before = frame.copy()
    drawn = draw_overlay(frame, make_result(0, {3: mask}, (400, 480)), tags=False)
    np.testing.assert_array_equal(frame, before)
    assert drawn.dtype == np.uint8
    assert drawn.flags.writeable
    color = np.array(object_color(3))
    np.testing.assert_array_equal(drawn[~mask], frame[~mask])
    inner = disc(200, 240, 76)
    blended = frame[inner] * 0.58 + color * 0.42
    np.testing.assert_allclose(drawn[inner], blended, atol=2)
    contour = (drawn == color).all(axis=2)
    assert 2 * 440 < contour.sum() < 2 * 700
    assert not (contour & ~disc(200, 240, 80)).any()


def test_contour_width_and_opacity(frame: Any, make_result: Callable[..., Any]) -> None:
    mask = np.zeros((400, 480), bool)
    mask[100:200, 100:200] = True
    result = make_result(0, {1: mask}, (400, 480))
    for width in (0, 1, 2, 3):
        drawn = draw_overlay(frame, result, opacity=0, contour=width, tags=False)
        changed = (drawn != frame).any(axis=2)
        assert changed.sum() == pytest.approx(100**2 - (100 - 2 * width) ** 2, abs=3)


def test_masks_at_the_edge_of_the_image(frame: Any, make_result: Callable[..., Any]) -> None:
    drawn = draw_overlay(frame, make_result(0, {1: np.ones((400, 480), bool)}, (400, 480)))
    assert (drawn[0] == object_color(1)).all()
    assert (drawn[:, -1] == object_color(1)).all()


def test_tags_stay_in_the_image_and_name_objects(
    frame: Any, make_result: Callable[..., Any]
) -> None:
    places = {1: disc(200, 240, 40), 2: disc(2, 2, 20), 300: disc(395, 478, 30)}
    result = make_result(0, places, (400, 480))
    plain = draw_overlay(frame, result, tags=False)
    tagged = draw_overlay(frame, result)
    named = draw_overlay(frame, result, names={1: "a long name"})
    changed = (tagged != plain).any(axis=2)
    for mask in places.values():
        rows, columns = np.nonzero(mask)
        top, left = rows.min(), columns.min()
        around = changed[max(0, top - 25) : top + 25, max(0, left - 20) : columns.max() + 20]
        assert around.sum() > 100
    longer = (named != plain).any(axis=2)
    assert longer[:200].sum() > changed[:200].sum() + 300


def test_a_tag_stands_at_the_object_and_not_at_specks(
    frame: Any, make_result: Callable[..., Any]
) -> None:
    specks = disc(390, 470, 3) | disc(20, 460, 3)
    alone = make_result(0, {1: disc(200, 100, 40)}, (400, 480))
    strewn = make_result(0, {1: disc(200, 100, 40) | specks}, (400, 480))
    tags = [
        (draw_overlay(frame, each) != draw_overlay(frame, each, tags=False)).any(axis=2)
        for each in (alone, strewn)
    ]
    np.testing.assert_array_equal(*tags)


def test_empty_masks_and_no_objects(frame: Any, make_result: Callable[..., Any]) -> None:
    for masks in ({}, {1: np.zeros((400, 480), bool)}):
        drawn = draw_overlay(frame, make_result(0, masks, (400, 480)))
        np.testing.assert_array_equal(drawn, frame)
        assert drawn is not frame


def test_masks_of_another_size(frame: Any, make_result: Callable[..., Any]) -> None:
    result = make_result(0, {1: np.ones((4, 4), bool)}, (4, 4))
    with pytest.raises(InputError, match="4 x 4 .*480 x 400"):
        draw_overlay(frame, result)


def test_colors_are_stable_and_differ() -> None:
    colors = [object_color(i) for i in range(1, 300)]
    assert len(set(colors)) > 290
    near = np.array(colors[:10]).astype(int)
    distance = np.abs(near[:, None] - near[None]).sum(axis=2) + 999 * np.eye(10)
    assert distance.min() > 60


def test_contact_sheet_holds_every_frame(frame: Any) -> None:
    frames = [np.full((90, 160, 3), 25 * (i + 1), np.uint8) for i in range(5)]
    sheet = contact_sheet(frames, [f"frame {i}" for i in range(5)], columns=3, cell_width=160)
    for value in range(5):
        row, column = divmod(value, 3)
        patch = sheet[4 + row * 106 + 20 : 4 + row * 106 + 60, 4 + column * 164 + 5 :][:, :100]
        assert (patch == 25 * (value + 1)).all()
    captions = sheet[4 + 90 : 4 + 90 + 14, :]
    assert (captions > 150).any()
    single = contact_sheet([frame], ["only"], cell_width=240)
    assert single.shape[1] < 260
    for frames, captions in (([], []), ([frame], [])):
        with pytest.raises(InputError, match="contact sheet"):
            contact_sheet(frames, captions)


@pytest.mark.parametrize(
    ("count", "cells", "expected"),
    [(3, 8, [0, 1, 2]), (100, 4, [0, 33, 66, 99]), (9, 1, [0]), (0, 4, [])],
)
def test_evenly_spaced(count: Any, cells: Any, expected: Any) -> None:
    assert evenly_spaced(count, cells) == expected


def test_tags_move_apart(frame: Any, make_result: Callable[..., Any]) -> None:
    """Objects at one place, also at the top edge: no tag covers another."""
    black, names = np.zeros_like(frame), {k: f"{k} person 0.9{k}" for k in range(1, 7)}

    def drawn(masks: Any) -> int:
        result = make_result(0, masks, (400, 480))
        changed = draw_overlay(black, result, names=names, opacity=0, contour=0)
        return int(changed.any(axis=2).sum())

    for row in (200, 4):
        discs = {k: disc(row, 240, 20) for k in names}
        assert drawn(discs) == sum(drawn({k: mask}) for k, mask in discs.items()) > 1000


@pytest.mark.parametrize("object_id", [1, 2, 4, 9])
def test_colours_stand_out_from_the_scene(make_result: Callable[..., Any], object_id: int) -> None:
    """An object of its own colour gets another one, which it keeps; others stay as they are."""
    own = object_color(object_id)
    frame = np.full((400, 480, 3), 128, np.uint8)
    frame[100:300, 100:300] = own
    mask = np.zeros((400, 480), bool)
    mask[150:250, 150:250] = True
    result = make_result(0, {object_id: mask}, (400, 480))
    colors: dict[int, tuple[int, int, int]] = {}
    drawn = draw_overlay(frame, result, colors=colors, tags=False)
    assert np.linalg.norm(np.subtract(colors[object_id], own)) > 90
    assert (drawn[150, 150] == colors[object_id]).all()
    before = dict(colors)
    other = draw_overlay(np.full_like(frame, 128), result, colors=colors, tags=False)
    assert colors == before and (other[150, 150] == before[object_id]).all()
    plain: dict[int, tuple[int, int, int]] = {}
    draw_overlay(np.full_like(frame, 128), result, colors=plain, tags=False)
    assert plain == {object_id: own}


def test_no_two_objects_get_one_colour(make_result: Callable[..., Any]) -> None:
    frame = np.full((400, 480, 3), object_color(1), np.uint8)
    masks = {k: disc(200, 40 * k, 15) for k in range(1, 9)}
    colors: dict[int, tuple[int, int, int]] = {}
    draw_overlay(frame, make_result(0, masks, (400, 480)), colors=colors)
    assert len(set(colors.values())) == 8 and object_color(1) not in colors.values()
