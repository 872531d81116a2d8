"""Scripts written for SAM 2's predictor run on our own, from a path on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tempomask.errors import InputError
from tempomask.media.masks import save_png
from tempomask.media.video import open_video
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan
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


def test_the_blocks_that_a_policy_wants_run(predictor: VideoPredictor, folder: Path) -> None:
    for policy, count in ((None, 14), (StaticPlan([0, 5, 13], predictor.segmenter.encoder), 3)):
        routed = VideoPredictor(predictor.segmenter, policy=policy)
        state = routed.init_state(folder)
        routed.add_new_points_or_box(state, 0, 1, points=[[20, 10]], labels=[1])
        assert len(list(routed.propagate_in_video(state))) == FRAMES
        assert state.session.correct(points=[(20, 10)]).blocks.sum() == count


def test_what_cannot_be_tracked(predictor: VideoPredictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no pictures"):
        predictor.init_state(tmp_path)
    frames = iter([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    with pytest.raises(InputError, match="read in any order"):
        predictor.init_state(open_video(frames))
