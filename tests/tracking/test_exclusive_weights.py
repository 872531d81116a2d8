"""Which weights only clicks and boxes use: they can be trained alone, tracking from masks stays."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from tempomask.models.segmenter import Segmenter
from tempomask.prompts import Prompt
from tempomask.tracking.session import Session

MASK = np.zeros((48, 80), dtype=bool)
MASK[8:22, 5:21] = True
FROM = {"mask": Prompt(mask=MASK), "click": Prompt(points=(12.0, 14.0))}


@pytest.fixture(scope="module")
def prompted(segmenter: Segmenter) -> Segmenter:
    """A segmenter with maps of prompts, in which three masks compete for a click, like nano."""
    torch.manual_seed(2)
    config = replace(segmenter.config, prompt_maps=True, multimask_min_points=1)
    made = Segmenter(config).eval()
    made.load_state_dict({**made.state_dict(), **segmenter.state_dict()})
    return made


def logits(network: Segmenter, frames: list[np.ndarray], prompt: Prompt) -> np.ndarray:
    """float32 (T, h, w) of one object."""
    session = Session(network)
    session.add(prompt)
    return np.concatenate([session.step(frame).low_res_logits for frame in frames])


def changed(network: Segmenter, prefix: str) -> Segmenter:
    """The network with noise on the weights whose names begin so."""
    other = copy.deepcopy(network)
    chosen = [p for name, p in other.named_parameters() if name.startswith(prefix)]
    assert chosen
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in chosen:
            parameter += torch.randn(parameter.shape, generator=generator)
    return other


@pytest.mark.parametrize(
    ("weights", "shared"),
    [
        ("prompt_maps.", False),
        ("prompt_encoder.point_embeddings", False),
        *((f"mask_decoder.mask_heads.{i}.", False) for i in (1, 2, 3)),
        ("mask_decoder.iou_head.", False),
        ("mask_decoder.mask_tokens", True),
        ("mask_decoder.mask_heads.0.", True),
        ("prompt_encoder.not_a_point", True),
    ],
)
def test_masks_from_a_mask_do_not_see_what_only_clicks_use(
    prompted: Segmenter,
    clip: Callable[..., list[np.ndarray]],
    weights: str,
    shared: bool,
) -> None:
    frames, other = clip(4), changed(prompted, weights)
    before, after = (logits(network, frames, FROM["mask"]) for network in (prompted, other))
    assert np.array_equal(before, after) != shared


@pytest.mark.parametrize("weights", ["prompt_maps.", "prompt_encoder.point_embeddings"])
def test_masks_from_a_click_do(
    prompted: Segmenter, clip: Callable[..., list[np.ndarray]], weights: str
) -> None:
    frames, other = clip(2), changed(prompted, weights)
    before, after = (logits(network, frames, FROM["click"]) for network in (prompted, other))
    assert not np.array_equal(before, after)
