"""Scripts written for SAM 2's predictor run on our own, from a path on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tempomask.api import DTypeName, Engine, load
from tempomask.errors import InputError
from tempomask.media.masks import save_png
from tempomask.media.video import open_video
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.sam2_api import VideoPredictor

FRAMES, HEIGHT, WIDTH = 4, 40, 56


@pytest.fixture(scope="module")
def predictor() -> VideoPredictor:
    torch.manual_seed(0)
    config = replace(segmenter_config("nano"), name="tiny")
    return VideoPredictor(Segmenter(config.with_image_size(64)).eval())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(FRAMES):
        picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        save_png(tmp_path / f"{index:05d}.png", picture)
    return tmp_path


def test_a_script_for_the_official_predictor(predictor: VideoPredictor, folder: Path) -> None:
    state = predictor.init_state(video_path=str(folder), offload_video_to_cpu=True)
    _, ids, logits = predictor.add_new_points_or_box(
        inference_state=state, frame_idx=0, obj_id=7, points=[[20, 10]], labels=[1]
    )
    assert ids == [7] and logits.shape == (1, 1, HEIGHT, WIDTH)
    found = {}
    for index, ids, logits in predictor.propagate_in_video(state):
        assert ids == [7] and logits.shape == (1, 1, HEIGHT, WIDTH)
        found[index] = logits
    assert list(found) == list(range(FRAMES))
    predictor.reset_state(state)
    with pytest.raises(InputError, match="no object has been prompted"):
        next(predictor.propagate_in_video(state))


@pytest.mark.parametrize("engine", ["fast", "plain"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_loaded_models_of_any_dtype(engine: Engine, dtype: DTypeName, folder: Path) -> None:
    model = load("nano", image_size=64, device="cpu", dtype=dtype, engine=engine)
    predictor = VideoPredictor(model.segmenter)
    assert predictor.dtype == (model.dtype if engine == "fast" else torch.float32)
    state = predictor.init_state(folder)
    predictor.add_new_points_or_box(state, 0, 1, points=[[20, 10]], labels=[1])
    answers = list(predictor.propagate_in_video(state))
    assert len(answers) == FRAMES and all(logits.isfinite().all() for *_, logits in answers)


def test_a_dtype_that_the_weights_are_not_stored_in() -> None:
    segmenter = load("nano", image_size=64, device="cpu", dtype="bfloat16").segmenter
    assert VideoPredictor(segmenter, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(InputError, match='stored as bfloat16; leave .* dtype="float32"'):
        VideoPredictor(segmenter, torch.float32)


def test_what_cannot_be_tracked(predictor: VideoPredictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        predictor.init_state(tmp_path)
    frames = iter([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    with pytest.raises(InputError, match="read in any order"):
        predictor.init_state(open_video(frames))
