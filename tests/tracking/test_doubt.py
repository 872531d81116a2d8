"""Warnings of prompts whose mask is probably not what was meant."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from tempomask.errors import InputWarning
from tempomask.models.segmenter import Decoded
from tempomask.prompts import Prompt
from tempomask.tracking.doubt import agreement, warn_of_doubt
from tempomask.tracking.session import Session
from tempomask.tracking.state import Output

from .conftest import HEIGHT, WIDTH, make_segmenter


def square(side: int) -> Tensor:
    logits = torch.full((32, 32), -1.0)
    logits[:side, :side] = 1.0
    return logits


def decoded(sides: Sequence[int], ious: Sequence[float]) -> Decoded:
    """Candidates that are squares of these sides; the one of the highest IoU is chosen."""
    masks, iou = torch.stack([square(side) for side in sides])[None], torch.tensor([ious])
    best = int(iou.argmax())
    nothing = torch.zeros(1, 1)
    return Decoded(
        masks[:, best : best + 1],
        iou[:, best],
        nothing,
        nothing[0],
        masks,
        iou,
        nothing,
        masks,
        masks,
    )


def said(prompt: Prompt, output: Output) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_doubt([prompt], [output])
    return [str(one.message) for one in caught if one.category is InputWarning]


@pytest.mark.parametrize(
    ("sides", "ious", "expected"),
    [
        ([20, 10, 5], [0.9, 0.8, 0.1], 0.25),
        ([20, 19, 5], [0.9, 0.8, 0.1], 361 / 400),
        ([10, 20, 5], [0.1, 0.9, 0.8], 25 / 400),
        ([10, 10], [0.9, 0.1], 1.0),
        ([10], [0.9], None),
        ([0, 0, 0], [0.9, 0.8, 0.1], 0.0),
    ],
)
def test_agreement_is_with_the_next_best(
    sides: list[int], ious: list[float], expected: float | None
) -> None:
    found = agreement(decoded(sides, ious), 0)
    assert (found is None) == (expected is None)
    assert expected is None or float(found) == pytest.approx(expected)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "iou", "side", "warned"),
    [
        (0.9, 0.9, 16, False),
        (0.3, 0.9, 16, True),
        (0.9, 0.3, 16, True),
        (None, 0.3, 16, False),
        (0.9, 0.9, 24, True),
    ],
)
def test_clicks_in_doubt_lead_to_a_box(
    found: float | None, iou: float, side: int, warned: bool
) -> None:
    click = Prompt(3, 2, points=[(5, 5)])
    asked = None if found is None else torch.tensor(found)
    mask = square(side)
    output = Output(mask, mask, torch.tensor(1.0), torch.tensor(iou), square(1), agreement=asked)
    lines = said(click, output)
    assert len(lines) == warned
    if warned:
        share = f"{side**2 / 32**2:.1%} of the image"
        assert "object 2 on frame 3" in lines[0] and share in lines[0]
        assert "give a box" in lines[0]


@pytest.mark.parametrize(("side", "warned"), [(1, True), (12, False)])
def test_masks_too_small_for_the_network(side: int, warned: bool) -> None:
    mask = np.zeros((16 * HEIGHT, 16 * WIDTH), bool)
    mask[96 : 96 + side * 16, 96 : 96 + side * 16] = True
    session = Session(make_segmenter())
    session.add(Prompt(0, 4, mask=mask))
    frame = np.zeros((*mask.shape, 3), np.uint8)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = session.step(frame)
    lines = [str(one.message) for one in caught if one.category is InputWarning]
    assert len(lines) == warned and bool(result.masks.any()) != warned
    if warned:
        assert "the mask of object 4 on frame 0 is too small" in lines[0]
