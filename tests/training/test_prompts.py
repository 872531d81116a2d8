"""Prompts sampled from masks lie where they should."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from tempomask.training.prompts import PromptSampling, box_prompt, click


def square(x0: int, y0: int, x1: int, y1: int, side: int = 32) -> torch.Tensor:
    mask = torch.zeros(1, side, side)
    mask[0, y0:y1, x0:x1] = 1
    return mask


@given(seed=st.integers(0, 10_000), x=st.integers(0, 20), y=st.integers(0, 20))
def test_first_click_is_on_the_object(seed: int, x: int, y: int) -> None:
    mask = square(x, y, x + 6, y + 9)
    points, labels = click(mask, None, torch.Generator().manual_seed(seed))
    px, py = points[0, 0].long().tolist()
    assert mask[0, py, px] == 1
    assert labels.tolist() == [[1]]


@given(seed=st.integers(0, 10_000))
def test_correction_is_on_an_error_and_its_label_says_which(seed: int) -> None:
    mask = square(4, 4, 16, 16)
    predicted = square(8, 4, 24, 16)[0:1] > 0
    points, labels = click(mask, predicted, torch.Generator().manual_seed(seed))
    px, py = points[0, 0].long().tolist()
    assert bool(mask[0, py, px]) != bool(predicted[0, py, px])
    assert labels.item() == int(mask[0, py, px])


def test_box_without_jitter_is_tight() -> None:
    points, labels = box_prompt(square(3, 5, 10, 20), 0.0, torch.Generator())
    assert points.tolist() == [[[3, 5], [10, 20]]]
    assert labels.tolist() == [[2, 3]]


@given(seed=st.integers(0, 10_000))
def test_jittered_box_stays_in_the_image(seed: int) -> None:
    points, _ = box_prompt(square(0, 0, 32, 31), 0.5, torch.Generator().manual_seed(seed))
    assert points.min() >= 0 and points.max() <= 32


def test_shares_of_prompt_kinds() -> None:
    generator = torch.Generator().manual_seed(0)
    sampling = PromptSampling(mask=0.5, box=0.2)
    kinds = [sampling.choose(generator) for _ in range(2000)]
    assert abs(kinds.count("mask") / 2000 - 0.5) < 0.05
    assert abs(kinds.count("box") / 2000 - 0.2) < 0.05
