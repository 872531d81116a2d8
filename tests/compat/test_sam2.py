"""Scripts written for SAM 2's predictor run on our own, from a path on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tempomask.compat.sam2 import VideoPredictor
from tempomask.devices import DTypeName
from tempomask.errors import InputError
from tempomask.io.images import save_png
from tempomask.io.video import open_video
from tempomask.model import Engine, load
from tempomask.models.config import segmenter_config
from tempomask.models.segmenter import Segmenter
from tempomask.routing.static import StaticPlan
from tempomask.tracking.options import TrackingOptions

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
        image = rng.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        save_png(tmp_path / f"{index:05d}.png", image)
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


def test_what_load_returns_is_taken_with_its_dtype() -> None:
    model = load("nano", image_size=64, device="cpu", dtype="bfloat16", engine="plain")
    predictor = VideoPredictor(model)
    assert (predictor.segmenter, predictor.dtype) == (model.segmenter, torch.bfloat16)
    assert (predictor.device, predictor.image_size) == (torch.device("cpu"), 64)
    with pytest.raises(InputError, match="got str"):
        VideoPredictor("nano")  # type: ignore[arg-type]


def test_arguments_in_every_form_that_scripts_use(predictor: VideoPredictor, folder: Path) -> None:
    def ask(**prompt: Any) -> torch.Tensor:
        state = predictor.init_state(folder)
        _, ids, logits = predictor.add_new_points_or_box(state, 0, "cup", **prompt)
        assert ids == ["cup"] and state["obj_ids"] == ["cup"]
        return logits

    clicks, labels, box = [[20.0, 10.0], [3.0, 30.0]], [1, 0], [10.0, 4.0, 40.0, 30.0]
    expected = ask(points=clicks, labels=labels, box=box)
    batched = ask(points=torch.tensor([clicks]), labels=torch.tensor([labels]), box=np.array([box]))
    assert torch.equal(batched, expected)
    whole = np.array([WIDTH, HEIGHT])
    shares = {"points": clicks / whole, "box": (np.reshape(box, (2, 2)) / whole).reshape(1, 4)}
    relative = ask(**shares, labels=labels, normalize_coords=False)
    torch.testing.assert_close(relative, expected, atol=1e-3, rtol=1e-3)


def test_masks_of_every_kind_and_size(predictor: VideoPredictor, folder: Path) -> None:
    mask = np.zeros((64, 64), bool)
    mask[8:40, 8:40] = True
    state = predictor.init_state(folder)
    for obj_id, given in enumerate((mask, mask * 0.3, torch.tensor(mask) * 0.9)):
        predictor.add_new_mask(state, 0, obj_id, given)
    _, ids, logits = predictor.add_new_mask(state, 0, "small", mask[::2, ::2])
    assert ids == [0, 1, 2, "small"] and logits.shape == (4, 1, HEIGHT, WIDTH)
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])
    assert ((logits[3] > 0) == (logits[0] > 0)).float().mean() > 0.9


def test_objects_are_removed_and_frames_cleared(predictor: VideoPredictor, folder: Path) -> None:
    state = predictor.init_state(folder)
    assert (state["video_height"], state["video_width"], state["num_frames"]) == (40, 56, FRAMES)
    with pytest.raises(InputError, match="'images'"):
        state["images"]
    predictor.add_new_mask(state, 1, "a", np.ones((HEIGHT, WIDTH)))
    for frame in (2, 1):
        predictor.add_new_points(state, frame, 5, points=[[20, 10]], labels=[1])
    assert predictor.remove_object(state, "b") == (["a", 5], [])
    with pytest.raises(InputError, match="'b'"):
        predictor.remove_object(state, "b", strict=True)
    index, ids, logits = predictor.clear_all_prompts_in_frame(state, 1, 5) or (0, [], None)
    assert (index, ids) == (1, ["a", 5]) and logits is not None
    assert (logits[0] > -1024).all() and (logits[1] == -1024).all()
    assert [index for index, *_ in predictor.propagate_in_video(state)] == [1, 2, 3]
    ids, updated = predictor.remove_object(state, "a")
    assert ids == [5] and [(index, len(masks)) for index, masks in updated] == [(1, 1)]
    predictor.clear_all_prompts_in_frame(state, 2, 5, need_output=False)
    with pytest.raises(InputError, match="no object has been prompted"):
        predictor.propagate_in_video_preflight(state)
    predictor.add_new_points(state, 0, 6, points=[[20, 10]], labels=[1])
    with pytest.raises(InputError, match="object 5"):
        next(predictor.propagate_in_video(state))
    predictor.remove_object(state, 5)
    assert predictor.remove_object(state, 6) == ([], []) and state["obj_ids"] == []


def test_a_prompt_that_is_refused_leaves_no_object(
    predictor: VideoPredictor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = predictor.init_state(folder)
    with pytest.raises(InputError, match="56 x 40"):
        predictor.add_new_points(state, 0, 1, points=[[500, 10]], labels=[1])
    with monkeypatch.context() as patched:
        patched.setattr(predictor.segmenter, "decode", None)
        with pytest.raises(TypeError):
            predictor.add_new_points(state, 0, 1, points=[[20, 10]], labels=[1])
    assert (state["obj_ids"], state.prompted, state.session.object_ids) == ([], set(), ())


@pytest.mark.parametrize("official", [False, True])
def test_a_correction_stays_when_the_video_is_tracked_again(
    official: bool, predictor: VideoPredictor, folder: Path
) -> None:
    if official:
        options = TrackingOptions.interactive(corrections_condition=False)
        predictor = VideoPredictor(predictor.segmenter, options=options)
    state = predictor.init_state(folder)
    predictor.add_new_points(state, 0, 1, points=[[20, 10]], labels=[1])
    tracked = [logits for *_, logits in predictor.propagate_in_video(state)]
    mask = np.eye(HEIGHT, WIDTH) + np.eye(HEIGHT, WIDTH, 1)
    *_, corrected = predictor.add_new_mask(state, 2, 1, mask)
    again = [logits for *_, logits in predictor.propagate_in_video(state)]
    assert not torch.equal(corrected, tracked[2])
    assert torch.equal(again[2], corrected) != official


def test_a_dtype_that_the_weights_are_not_stored_in() -> None:
    segmenter = load("nano", image_size=64, device="cpu", dtype="bfloat16").segmenter
    assert VideoPredictor(segmenter, torch.bfloat16).dtype == torch.bfloat16
    with pytest.raises(InputError, match="bfloat16"):
        VideoPredictor(segmenter, torch.float32)


def test_the_blocks_that_a_policy_wants_run(predictor: VideoPredictor, folder: Path) -> None:
    for policy, count in ((None, 14), (StaticPlan([0, 5, 13], predictor.segmenter.encoder), 3)):
        routed = VideoPredictor(predictor.segmenter, routing=policy)
        state = routed.init_state(folder)
        routed.add_new_points_or_box(state, 0, 1, points=[[20, 10]], labels=[1])
        assert len(list(routed.propagate_in_video(state))) == FRAMES
        assert state.session.correct(points=[(20, 10)]).blocks.sum() == count


def test_what_cannot_be_tracked(predictor: VideoPredictor, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no images"):
        predictor.init_state(tmp_path)
    frames = iter([np.zeros((HEIGHT, WIDTH, 3), np.uint8)])
    with pytest.raises(InputError, match="read in any order"):
        predictor.init_state(open_video(frames))


@pytest.mark.parametrize(
    ("points", "labels"),
    [
        (np.zeros((0, 2), np.float32), np.zeros(0, np.int32)),
        (np.zeros((0, 2), np.float32), None),
        ([], []),
        (torch.zeros(1, 0, 2), torch.zeros(1, 0)),
    ],
)
def test_empty_points_beside_a_box_are_none(
    predictor: VideoPredictor, folder: Path, points: Any, labels: Any
) -> None:
    answers = [
        predictor.add_new_points_or_box(
            predictor.init_state(folder), 0, 1, box=[10, 4, 40, 30], **given
        )[2]
        for given in ({}, {"points": points, "labels": labels})
    ]
    assert torch.equal(*answers)
