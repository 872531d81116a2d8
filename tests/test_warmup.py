"""After `Model.warmup` a first frame makes nothing that lasts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tempomask import load
from tempomask.engine.hybrid import FastTransformerBlock
from tempomask.errors import InputError
from tempomask.model import Model
from tempomask.models.prompt_encoder import PromptEncoder
from tempomask.ops import normalise
from tempomask.ops.position import grid_sine
from tempomask.ops.rope import axial_table

SIZE = 48, 80
FRAME = np.random.default_rng(0).integers(0, 256, (*SIZE, 3)).astype(np.uint8)
TABLES = (grid_sine, axial_table, normalise._moments)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many tables have been made so far, by the functions that keep them."""
    others = 0

    def counted(kept: type, name: str) -> None:
        make = getattr(kept, name)

        def counting(*args: Any) -> Any:
            nonlocal others
            others += 1
            return make(*args)

        monkeypatch.setattr(kept, name, counting)

    counted(PromptEncoder, "_make_grid")
    table = FastTransformerBlock._table

    def watched(self: FastTransformerBlock, height: int, width: int, *rest: Any) -> Any:
        nonlocal others
        others += (height, width) not in self._tables
        return table(self, height, width, *rest)

    monkeypatch.setattr(FastTransformerBlock, "_table", watched)
    for function in TABLES:
        function.cache_clear()
    return lambda: others + sum(function.cache_info().misses for function in TABLES)


def first_masks(model: Model, objects: int) -> list[np.ndarray[Any, Any]]:
    session = model.session()
    for number in range(1, objects + 1):
        session.prompt(object_id=number, box=(10, 10, 20 + 10 * number, 40))
    return [session.step(FRAME).low_res_logits for _ in range(3)]


def test_the_first_frame_finds_everything_ready(made: Callable[[], int]) -> None:
    model = load("nano", device="cpu", dtype="float32", image_size=128)
    seconds = model.warmup(SIZE, objects=[1, 2])
    assert 0 < seconds < 300
    ready = made()
    # Without it, all of these would have been made now.
    assert ready > 4
    warm = [first_masks(model, 1), first_masks(model, 2)]
    assert made() == ready
    cold = load("nano", device="cpu", dtype="float32", image_size=128)
    for masks, objects in zip(warm, (1, 2), strict=True):
        for a, b in zip(masks, first_masks(cold, objects), strict=True):
            assert np.array_equal(a, b)
    assert made() > ready


def test_a_size_that_is_none() -> None:
    model = load("nano", image_size=64, device="cpu")
    with pytest.raises(InputError, match="got 720"):
        model.warmup(720)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "objects"), [((0, 80), 1), ((48, 80), 0), ((48, 80), [1, -1])])
def test_nonsense_is_refused(size: tuple[int, int], objects: int | list[int]) -> None:
    model = load("nano", device="cpu", dtype="float32", image_size=64)
    with pytest.raises(InputError, match="a warm-up needs a size"):
        model.warmup(size, objects)
